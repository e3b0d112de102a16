"""A hospital's side: joins a federation, keeps what is private, and lets out what its policy allows."""
