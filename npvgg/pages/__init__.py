"""A document as data (`parts`), and its three forms: text, HTML with MathML, drawings in SVG."""
