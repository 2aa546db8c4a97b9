"""The networks of a restorer as graphs of plain tensors."""
