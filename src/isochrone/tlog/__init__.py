"""A transparency log as the C2SP specifications describe it (https://c2sp.org), a library of its own.

    merkle       RFC 6962 hashes, inclusion and consistency proofs, made and verified
    tiles        tlog-tiles: coordinates, paths, hash tiles, entry bundles, the right edge of a tree
    keys         Ed25519 and ML-DSA-44 (the one module that imports `cryptography`)
    note         signed-note: signers, verifiers, verifier key strings
    checkpoint   tlog-checkpoint: origin, size, root
    cosignature  tlog-cosignature: Ed25519 ``cosignature/v1`` and ML-DSA-44 ``subtree/v1``
    store        the storage port, and a log held in memory
    state        what a sequencer must remember, in one durable piece
    tree         tiles read back, each one authenticated against a root before it is used
    writer       the sequencer: append durably, publish a signed checkpoint
    reader       verified entries and proofs for whoever holds the log's key
    witness      tlog-witness: the rule of both sides
    evidence     proof that a log forked, as bytes that anyone can check
    quorum       tlog-policy: which logs and how many witnesses a checkpoint needs
    proof        tlog-proof: one entry's inclusion, verifiable offline
    fsck         rebuild a log from its entries and compare every file

Nothing here reads a clock, draws a random number or opens a file: `now_s` is an argument, keys are given, and bytes go
through the port in `store`.
"""
