"""Which tests a change has to pass, and that a session ran all of them."""
