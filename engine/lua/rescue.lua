-- Worker's parent: my work-horse will not end what it has in hand.
-- ARGV: worker, 'lost' or 'handed_back', reason, its rq encoding, id of a run an operator stopped or ''.
room()
return rescue(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
