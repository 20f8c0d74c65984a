"""What Bokeh Focus has in its widgets in tests."""

FOCUS = {"focus_by": "point", "focus_x": 0.5, "focus_y": 0.5, "distances": "2"}
PULL = {"pull": "off", "pull_x": 0.0, "pull_y": 0.0, "pull_steps": 5}
LENS = {"lens": "blur", "f_number": 0.0, "focal_length": 50.0, "sensor": "full frame, 36 x 24 mm", "blur": 16.0}
SETTINGS = {"depth_is": "near is bright", "nearest": 1.0, "farthest": 10.0, **FOCUS, **PULL, **LENS, "sharp": 0.0}
