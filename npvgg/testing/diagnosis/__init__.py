"""What was done, by replaying the mistakes that people make."""
