"""Whether anything still points to a block: its class, from the words of the process's memory."""
