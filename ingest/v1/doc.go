// Package v1 is Counterfoil's own HTTP API: the same few rules for every kind of item, for partners without an API of their own to keep.
//
//	POST /v1/{kind}                          a batch of items of one kind
//	GET  /v1/batches?limit=&after=           batches, the newest first
//	GET  /v1/batches/{number}                one batch: how far it is
//	GET  /v1/batches/{number}/processed      its items that were processed
//	GET  /v1/batches/{number}/unprocessed    its items that were not, and why
//
// The parts: kinds.go knows the kinds, parse.go makes items of bodies, prefer.go reads how long the caller waits, post.go takes batches,
// batches.go shows them.
//
// # Kinds
//
// A kind is the name of its topic with hyphens. Items are judged by the processors: sales, ownership, customer-events, referrals,
// transactions. Records of facts and references are judged at the door and written to their own topics, where one replaces the earlier one
// of its id: calls, order-lines, invoice-lines, stock; accounts, participants, units, classifications, products, payment-medium-types,
// payment-medium-brands, kpis, invoices, customers, customer-parts. Nothing is deleted through this API; API keys are made by operators.
//
// # Bodies
//
//	application/json        an array of items, or {"items":[…]}
//	application/x-ndjson    an item a line; blank lines are skipped
//	text/csv                a header with the names of the fields, then an item a row (RFC 4180)
//
// All are UTF-8 and may be gzipped. The fields of an item are those of the kind's Avro schema in the plain form of schemas/plainjson; ref, a
// text or number beside them, is the caller's own reference, which comes back with the item's outcome. In CSV an empty cell is a field that is
// left out; the members of a record have columns of their own, named by their path (account.number), or the record is JSON in one cell, as
// arrays are.
//
// A body that cannot be read is refused whole: JSON or CSV that is malformed, nested deeper than 64 levels, or not UTF-8. An item is never a
// reason for that: one that does not fit its schema, an unknown field, a line of NDJSON that is no JSON object, a row with another number of
// cells than the header become unprocessed items, each with all of its defects and the bytes as sent (of CSV the row). Two items may have the
// same ref. Too much is refused whole: 10,000 items, 16 MiB unpacked, or an item of more than 1 MiB when encoded, which the problem's index
// names.
//
// # Answers
//
// The caller waits for the outcomes for 10 seconds (REPLY_WAIT), or as long as it says (RFC 7240): Prefer: wait=N, at most 60, or
// Prefer: respond-async, which is wait=0. The answer is 200 when every item has its outcome and 202 otherwise, with a Location for the rest,
// and lists every item in the order of the request. Sending an item again makes a new item: to repeat a request safely, give it an
// Idempotency-Key.
//
// Lists have pages: next is the value of after for the next one, and absent on the last. With Accept: application/x-ndjson there is a line
// for each row instead and, unless limit says otherwise, all of them.
//
// All errors are problem+json (RFC 9457) with two members of ours: code, one of [ingest.Code], and index where one item is at fault.
package v1
