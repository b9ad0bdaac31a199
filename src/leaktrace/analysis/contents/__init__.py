"""What is in blocks: text, pointers, and what many blocks share. Works on bytes."""
