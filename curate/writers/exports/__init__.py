"""What only `curate export` writes: lists of rows, folders of images, files of other tools."""
