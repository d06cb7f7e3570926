"""What receipts of many runs say together: series of measures, regressions, flaky tests, and the page of them."""
