"""What is timed, a section each."""
