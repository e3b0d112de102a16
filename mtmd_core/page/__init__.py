"""Pages that a person reads in a browser or on paper: one HTML file that fetches nothing, and plain numbers made readable."""
