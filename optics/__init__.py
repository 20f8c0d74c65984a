"""The camera: lens, EXIF, depth, defocus, depth renderer. No host import."""
