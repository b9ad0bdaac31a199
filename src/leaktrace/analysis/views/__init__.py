"""The sites of a report seen in other ways: filtered, grouped by function, module or line, as a
tree of calls. They take `Report` values, wherever these come from."""
