"""One protocol a file: how embeddings and scores are turned into the numbers of a table.

Rates are fractions in [0, 1] everywhere in this package; a score is a cosine similarity in [-1, 1] unless said
otherwise, and a comparison is accepted when ``score > threshold`` (strictly), or ``distance < threshold`` where a
protocol speaks of distances.
"""
