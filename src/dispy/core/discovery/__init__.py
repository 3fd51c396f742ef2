"""Which beacons are sent when, and which are believed: of a program that seeks nodes, and of a node that is there.

Beacons only ever say "dial this very address": the handshake there decides. So a beacon that is lost, recorded, sent
again or sent from elsewhere can cost a dial, and nothing else.
"""
