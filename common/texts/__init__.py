"""From any table of texts to a data set: cells, columns, parts, labels as targets, who is held out. `common/data.py` calls it all."""
