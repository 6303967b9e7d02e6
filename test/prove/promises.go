package main

// promises are what the guards stand for, in the order of the table: the name that @promise has, and what is promised.
var promises = []struct{ name, text string }{
	{"whole batches", "A batch is accepted whole or not at all; a 2xx means that it is in a committed transaction. An unknown commit is looked up"},
	{"one outcome", "Every accepted item gets exactly one outcome per attempt, whatever crashes: offsets, outcomes and state commit together"},
	{"exactly once", "ClickHouse holds each committed outcome exactly once, at every moment"},
	{"facts", "A reference or fact is there once, as it was sent last, wherever it was before"},
	{"causal reads", "An item is judged against every reference record and call that was acknowledged before it was sent"},
	{"order", "Items of one key are judged in the order of their offsets, against what the earlier ones left"},
	{"idempotency", "A request that is repeated with its Idempotency-Key has one effect and one result"},
	{"bad input", "Bad input is never lost, never stops the others and never becomes another value"},
	{"bounded memory", "Memory is bounded: limits at the door, and 503 when Kafka or ClickHouse stall"},
	{"tenants", "No tenant sees another's data, and no key does what it may not"},
	{"answers", "What a caller was told stays true"},
	{"positions", "No role starts from a position that it cannot trust"},
}
