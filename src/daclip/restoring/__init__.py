"""From files and arrays of any size to restored ones: pixels, tiles, memory, control, batches of files."""
