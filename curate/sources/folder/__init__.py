"""Folders of images, with labels from sub-folders and captions from side files."""
