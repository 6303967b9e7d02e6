// Package audit proves, from what lies in Kafka and ClickHouse, that each accepted item has exactly one outcome for each attempt and that
// ClickHouse holds what the topics hold. It changes nothing, and runs beside everything else.
//
// # A live system
//
// What is on its way is no difference. So [Run] first fixes how far it looks, in the order in which data flows, and waits at each step for
// whoever works there (bounds.go):
//
//  1. The ends of the committed headers in batches and in requests. Then the end of requests, below which lies all that belongs to these
//     headers, until the processor has passed it on.
//  2. The ends of the item topics, below which lie the items of those headers, until the processors' committed offsets are past them. A record
//     in a wrong partition may have been forwarded meanwhile, so that this is done once more; then each item that lay below the first ends is
//     judged, wherever it was.
//  3. The ends of all topics that the sink reads; until its committed offsets are past them. Now the tables hold exactly what lies below.
//
// Ends are high watermarks, as everywhere in Counterfoil: an acknowledged record is below them even where the marker of its transaction is not
// written yet, and a committed offset passes them only when it is. Of headers alone the end is that of the committed records: one above it may
// belong to a transaction whose items are still to be produced. A wait ends with an error where nothing moves for [Options].Stuck: that proves nothing
// either way.
//
// # Bounded memory
//
// Neither topics nor tables are held. Of both sides each run of 65,536 offsets of a partition becomes two numbers, how many and the sum of their
// hashes (SHA-256 of position, tenant, identity and what else is compared, cut to 64 bits), which do not depend on the order, and in which
// something that is there twice counts twice. ClickHouse computes its side itself. Only runs that differ are read again, a few at a
// time, to name what is missing, doubled, foreign or different. Whatever is looked up by something else than its position is looked up in
// chunks or shares of a fixed size.
//
// # What is compared
//
//   - tables.go: each record of a result topic, of batches and of dead_letters with its row, in every log table that the topic feeds.
//
//   - items.go: each record of an item topic with what became of it: one outcome that names its position and its identity, or one copy that was
//     forwarded to the right partition (and is an item itself), or one dead letter. This needs no judgement of its own, and no item is
//     decoded. A replay that came too late has nothing, where a later attempt or the same has its outcome.
//
//   - batches.go: each header's number of items with the distinct items that have an outcome, items that were decided at the door included;
//     identities that have two outcomes of one attempt; each request with an Idempotency-Key with its one answer and, where that says so, its batch.
//
//   - state.go: each record of a reference or fact topic with the version that its table has of the own id: that one, or a later one. Such tables
//     get their rows at least once, and the highest version wins, so that more cannot be asked.
//
//   - copies.go: what everybody owns, and facts in another order than by id, with the tables that they are made of, within ClickHouse.
//
// Beyond that, columns that carry business data are not compared one by one: a row is in its table whole or not at all.
package audit
