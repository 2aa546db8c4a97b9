"""Wide corruptions: what real photos and several generators show, from barely visible to severe."""
