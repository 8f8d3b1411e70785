"""What is done on pages, a module for each kind; `page_acts` has them all by name."""
