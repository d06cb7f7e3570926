"""What users wrote, checked: for the desk and for surfaces, which both read tables of their own."""
