"""What is said in the terminal: runs side by side, numbers derived again, other people's logs read."""
