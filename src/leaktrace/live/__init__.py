"""The live view: the sites of a running trace in place, with keys (docs/live.md).

`reporter.py` is what the session drives: a reporter whose reports go to the screen, and a source of
keys. `state.py` is what is shown and how keys change it, `screen.py` makes lines of that, and
`terminal.py` has the terminal while the view is open. Imported when a view is opened.
"""
