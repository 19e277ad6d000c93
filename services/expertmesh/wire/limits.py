"""What callers and expert servers rely on without asking each other."""

# The greatest call that every server takes, unless its rows are so wide that fewer fit into a message.
MAX_CALL_ROWS = 2048
