-- Worker's parent: my work-horse died. ARGV: worker, reason, its rq encoding, id of a run an operator stopped or ''.
return rescue(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
