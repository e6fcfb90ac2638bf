"""`curate review`: a local web application to look at the rows of a finished run and to decide about them by eye."""
