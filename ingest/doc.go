// Package ingest is Counterfoil's HTTP service: requests in, batches out, outcomes back.
//
// Its life is [New], [Service.Run], [Service.Ready]. A partner's adapter (ingest/<partner>) registers its routes on [Service.Mux], and in
// a handler does what all do: [Service.Authenticate], [Service.ReadBody], parse leniently into [Item] values with their defects,
// [Service.Submit], write the [Receipt] in the partner's form. What goes wrong comes back as an [*Error], which each adapter puts into its
// partner's own form.
//
// The parts:
//
//   - submit.go: from a [Batch] to encoded records, and from outcomes to a [Receipt];
//   - publish.go: group commit. Concurrent batches share one Kafka transaction with their headers, items and the outcomes of items
//     refused at the door. A commit with unknown outcome is looked up (lookup.go), never guessed;
//   - idempotency.go: requests with an Idempotency-Key, of which only the first becomes a batch;
//   - replies.go: tails some partitions of the result topics and hands outcomes to the requests that wait;
//   - budget.go, backlog.go: what bounds memory and waiting: bytes in flight, and the age of the oldest unjudged item;
//   - sink.go: waiting until ClickHouse has what was written, for GETs;
//   - auth.go, keys.go, tokens.go: keys, tokens, addresses, rates;
//   - http.go, body.go: server, middleware, limits of requests;
//   - batches.go: batches and their items as callers may see them; ingest/v1 shows them.
//
// A 2xx means that the batch is in a committed transaction, whole. A refusal means that nothing of it is. A connection that is closed without
// an answer means that nobody knew in time.
package ingest
