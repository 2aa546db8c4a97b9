"""The web page `daclip app`: restore photos in a browser, on the machine that it runs on."""
