"""Search an index in ten lines: python examples/search_in_ten_lines.py idx."""

import sys

import medfinder

finder = medfinder.open_index(sys.argv[1])
for hit in finder.search("left pleural effusion", k=3):
    print(hit)
for hit in finder.search(keyword="nodule", where="age >= 40", k=3):
    print(hit.study_id, hit.why.terms, hit.why.sentences[:1])
