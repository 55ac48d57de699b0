"""RepVGG in plain JavaScript: the live page, and the port that is held against a pack.

`repvgg.js` is the network, `page.js` what is clicked; `port.js` runs a conformance pack in Node.
"""
