"""Which label formats can be read and written?

One module each: `voc` (Pascal VOC xml), `yolo` (txt), `coco` (COCO and COCO Camera Traps json), `megadetector` (batch
output, read only). Reading gives a `ena24ssd.formats.reading.Reading`, whatever the format; writing turns a dataset
into a `ena24ssd.formats.writing.Writing`, which touches no file. `ena24ssd.conversion.convert` joins the two.
"""

SOURCES = ("voc", "yolo", "coco", "megadetector", "camera-traps")  # what can be read
TARGETS = ("camera-traps", "voc", "yolo", "coco")  # what can be written
