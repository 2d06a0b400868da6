"""What can detections be written as?

One module each, with a function that takes pictures as they come and keeps none of them: `csvtable` (a table for
spreadsheets and R), `cocoresults` (for COCO's evaluators) and `camtrapdp` (a Camera Trap Data Package, for which
`project` says what must be known besides). MegaDetector batch output, which is also read, is `ena24ssd.detections`.

File names are relative to the folder that all pictures lie in, with forward slashes (`names`). A writer writes what it
is given: whoever wants only what counts passes ``map(thresholds.select, images)``.
"""
