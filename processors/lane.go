package processors

import (
	"cmp"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/reference"
	"github.com/counterfoil/counterfoil/schemas"
)

// Sizes in bytes that keep what we write within the 4 MiB that the broker takes, envelope included.
const (
	// recordRoom is how large a record may be, unpacked. Ingest sends no larger ones and the broker takes none; only a compressed batch
	// can hold one.
	recordRoom = schemas.MaxItemBytes + 64<<10
	// outcomeRoom is for a processed outcome: the resolved ids of a purchase's lines can be more than the item.
	outcomeRoom = 3 << 20
	// reasonsRoom is for the reasons of an unprocessed outcome.
	reasonsRoom = 1 << 20
)

// lane is one owned partition of an item topic. Between the callbacks it belongs to the session's loop, in a round to one worker, and
// before restored is set its state belongs to the take-over.
type lane struct {
	s          *session
	kind       *kind
	partition  int32
	partitions int32 // of the item topic
	epoch      int32 // of the item topic
	codecs     *codecs
	judge      judge       // nil where records are passed on
	requests   *requests   // nil where they are judged
	state      state       // nil where the kind has none
	attempts   *attempts   // nil where records are passed on
	dropped    atomic.Bool // taken from us
	restored   bool        // guarded by session.mu
	again      bool        // judged records have been read again; guarded by session.mu
	done       int64       // every record below has been judged and committed, -1 before the first round; guarded by session.mu

	// The round under way.
	view    reference.View
	now     time.Time   // when it judges
	next    int64       // every record below has been judged
	stopped bool        // next lies before the end of what was polled
	waiting *kgo.Record // at next: its schema is not known yet
	judged  time.Time   // timestamp of the last judged record; at first, of the assignment
	places  []int       // of the records' queries, or one of the constants of ask; a record beyond them waits for its schema
	queries []schemas.CallQuery
	found   []schemas.CallsFound // parallel to queries
	it      item
	out     output
	tally   tally
}

// tally counts a round's outcomes for the metrics.
type tally struct {
	processed, forwarded, dead int
	reasons                    []string // one code for each reason of the unprocessed
	unprocessed                int

	late            int      // replays that came too late
	passed, dropped int      // records of requests
	verdicts        []string // on requests
}

func newLane(s *session, k *kind, partition int32) *lane {
	l := &lane{
		s: s, kind: k, partition: partition,
		partitions: s.partitions[k.name], epoch: s.p.deps.Epochs.Of(k.name), codecs: s.codecs[k.name],
		judged: time.Now(), done: -1,
	}
	l.clearState()
	return l
}

func (l *lane) place() place { return place{l.kind.name, l.partition} }

func (l *lane) asMap() map[string][]int32 {
	return map[string][]int32{l.kind.name: {l.partition}}
}

// clearState begins with no state, or forgets a half restored one.
func (l *lane) clearState() {
	if l.kind.newJudge != nil {
		l.judge = l.kind.newJudge(l)
		l.attempts = newAttempts(l)
		return
	}
	l.requests = newRequests(l)
	l.state = l.requests
}

// tables are all that the lane remembers.
func (l *lane) tables() []state {
	var all []state
	if l.state != nil {
		all = append(all, l.state)
	}
	if l.attempts != nil {
		all = append(all, l.attempts)
	}
	return all
}

// unjudged are the records that have not been judged yet. session.mu is held.
func (l *lane) unjudged(records []*kgo.Record) []*kgo.Record {
	from := records[0].Offset
	if from >= l.done {
		return records
	}
	if !l.again {
		l.again = true
		l.s.log.Warn("Kafka's client went back behind what is committed; what was judged is passed over", "topic", l.kind.name,
			"partition", l.partition, "from", from, "judged_to", l.done)
	}
	i, _ := slices.BinarySearchFunc(records, l.done, func(rec *kgo.Record, at int64) int { return cmp.Compare(rec.Offset, at) })
	return records[i:]
}

// drop forgets the round; keep makes it part of the state.
func (l *lane) drop() {
	for _, t := range l.tables() {
		t.drop()
	}
	l.tally = tally{reasons: l.tally.reasons[:0], verdicts: l.tally.verdicts[:0]}
	l.out.reset()
}

func (l *lane) keep() {
	for _, t := range l.tables() {
		t.keep()
	}
	l.s.mu.Lock()
	l.done = l.next
	l.s.mu.Unlock()
	l.s.p.metrics.judged(l)
	l.drop()
}

// judgeAll judges records in order, up to the first whose schema is not known yet, and adds what the state became.
func (l *lane) judgeAll(records []*kgo.Record, view reference.View, now time.Time) error {
	l.view, l.now, l.stopped = view, now, false
	for i, rec := range records {
		l.next = rec.Offset
		if !rec.Attrs.IsControl() {
			if err := l.judgeOne(rec, i); err != nil {
				l.stopped, l.waiting = true, rec
				break
			}
		}
		l.next = rec.Offset + 1
		l.judged = rec.Timestamp
	}
	if l.requests != nil {
		return nil // see requests.settle
	}
	for _, t := range l.tables() {
		if err := t.write(&l.out); err != nil {
			return err
		}
	}
	return nil
}

// Values of [lane.places].
const (
	asksNothing  = -1
	askingFailed = -2 // a fault of ours
)

// ask collects what the decisions on records must know of calls, up to the first record whose schema is not known yet.
func (l *lane) ask(records []*kgo.Record) {
	clear(l.queries)
	l.queries, l.places = l.queries[:0], l.places[:0]
	for _, rec := range records {
		place, err := l.askOne(rec)
		if err != nil {
			return
		}
		l.places = append(l.places, place)
	}
}

// askOne returns the place of a record's query. Whatever else there is to say about the record is said when it is judged. The only error is
// schemas.ErrSchemaPending.
func (l *lane) askOne(rec *kgo.Record) (place int, err error) {
	asking := false
	defer func() {
		if p := recover(); p != nil {
			place, err = asksNothing, nil // a fault in reading or checking shows again
			if asking {
				l.report(rec, p)
				place = askingFailed
			}
		}
	}()
	if rec.Attrs.IsControl() || rec.Value == nil || sizeOf(rec) > recordRoom {
		return asksNothing, nil
	}
	env, err := schemas.ParseEnvelope(rec.Headers)
	if err != nil {
		return asksNothing, nil
	}
	if err := l.judge.decode(rec.Value); errors.Is(err, schemas.ErrSchemaPending) {
		return 0, err
	} else if err != nil {
		return asksNothing, nil
	}
	if len(l.judge.check()) > 0 || l.rightPartition(&env, false) != rec.Partition {
		return asksNothing, nil
	}
	asking = true
	l.queries = append(l.queries, l.judge.(asker).query(env.Tenant))
	return len(l.queries) - 1, nil
}

// judgeOne gives a record, the i-th of its round, its outcome, or its dead letter, or passes it on. The only error is
// schemas.ErrSchemaPending.
func (l *lane) judgeOne(rec *kgo.Record, i int) error {
	if l.requests != nil {
		l.requests.judge(rec)
		return nil
	}
	env, err := schemas.ParseEnvelope(rec.Headers)
	switch size := sizeOf(rec); {
	case size > recordRoom:
		message := fmt.Sprintf("the record has %d bytes, at most %d are judged; it stays where it is and its value is not repeated here", size, recordRoom)
		l.deadLetter(&kgo.Record{Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset, Timestamp: rec.Timestamp}, nil, schemas.CodeOutOfRange, message)
		return nil
	case errors.Is(err, schemas.ErrTenantMissing):
		l.deadLetter(rec, nil, schemas.CodeTenantMissing, "the record has no usable tenant header")
		return nil
	case err != nil:
		l.deadLetter(rec, &env.Tenant, schemas.CodeBadHeader, err.Error())
		return nil
	case l.attempts.done(&env):
		l.tally.late++
		return nil
	case rec.Value == nil:
		l.deadLetter(rec, &env.Tenant, schemas.CodeUndecodable, "the record has no value")
		return nil
	}
	var bad *schemas.BadRecordError
	switch err := l.decode(rec); {
	case errors.Is(err, schemas.ErrSchemaPending):
		return err
	case errors.As(err, &bad):
		l.deadLetter(rec, &env.Tenant, bad.Code, bad.Message)
		return nil
	case err != nil:
		l.deadLetter(rec, &env.Tenant, schemas.CodeUndecodable, err.Error())
		return nil
	}
	l.it = item{
		env:     env,
		id:      env.ItemID(rec.Topic, l.epoch, rec.Partition, rec.Offset),
		version: schemas.Version(l.epoch, rec.Offset),
		number:  l.s.p.deps.Epochs.ItemNumber(l.kind.name, l.partition, rec.Offset, l.partitions),
		view:    l.view,
	}
	l.it.place = l.it.version
	if env.First != nil {
		l.it.place = env.First.Version()
	}
	if l.kind.calls {
		switch {
		case i >= len(l.places):
			return schemas.ErrSchemaPending // its schema has become known since the calls were looked up
		case l.places[i] == askingFailed:
			l.unprocessed(rec, verdict{reasons: internalFault()})
			return nil
		case l.places[i] != asksNothing:
			l.it.asked, l.it.found = &l.queries[l.places[i]], &l.found[l.places[i]]
		}
	}
	if v := l.decide(rec); len(v.reasons) > 0 {
		l.unprocessed(rec, v)
	}
	return nil
}

func sizeOf(rec *kgo.Record) int {
	size := len(rec.Key) + len(rec.Value)
	for _, h := range rec.Headers {
		size += len(h.Key) + len(h.Value)
	}
	return size
}

// decode reads the item; a panic of the codec is an unreadable record.
func (l *lane) decode(rec *kgo.Record) (err error) {
	defer func() {
		if p := recover(); p != nil {
			l.report(rec, p)
			err = &schemas.BadRecordError{Code: schemas.CodeInternalError, Message: "the record could not be read because of a fault in the reader"}
		}
	}()
	return l.judge.decode(rec.Value)
}

// internalFault is why an item is unprocessed that we failed at. It can be replayed.
func internalFault() []schemas.Reason {
	return []schemas.Reason{{Code: schemas.CodeInternalError, Message: "The item could not be judged because of an internal fault."}}
}

// decide judges the decoded item and writes its processed outcome, or forwards it, or returns why it is unprocessed. A panic is a fault of
// ours that costs one item, not the partition.
func (l *lane) decide(rec *kgo.Record) (v verdict) {
	mark, before := l.out.mark(), l.tally
	defer func() {
		if p := recover(); p != nil {
			l.out.back(mark)
			l.tally = before
			l.report(rec, p)
			v = verdict{reasons: internalFault()}
		}
	}()
	reasons := l.judge.check()
	if right := l.rightPartition(&l.it.env, len(reasons) > 0); right != rec.Partition {
		l.forward(rec, right)
		return verdict{}
	}
	if len(reasons) > 0 {
		return verdict{reasons: reasons}
	}
	v = l.judge.decide(&l.it)
	if len(v.reasons) > 0 {
		return v
	}
	*v.outcome = l.outcome(rec)
	value, err := l.out.encodeOutcome(l.codecs.processed, v.head, rec.Value, l.judge.item())
	if err != nil {
		panic(fmt.Errorf("encode outcome: %w", err))
	}
	if len(value) > outcomeRoom {
		l.out.back(mark)
		tooLarge := fmt.Sprintf("The item's outcome would have %d bytes; at most %d fit.", len(value), outcomeRoom)
		return verdict{reasons: []schemas.Reason{{Code: schemas.CodeOutOfRange, Message: tooLarge}}}
	}
	l.add(rec, schemas.ProcessedTopic(l.kind.name), value)
	l.judge.keep()
	l.tally.processed++
	return verdict{}
}

// rightPartition is where the decoded item must be judged, whatever partitioner its producer used. What has no key, or has defects, may be
// judged wherever it lies; but a replay must meet what is remembered of its item.
func (l *lane) rightPartition(env *schemas.Envelope, defective bool) int32 {
	var key []byte
	if !defective {
		key = l.judge.key(env.Tenant)
	}
	switch {
	case key != nil:
		return schemas.Partition(key, l.partitions)
	case env.First != nil:
		return schemas.Partition([]byte(env.First.ID), l.partitions)
	default:
		return l.partition
	}
}

// forward passes a misplaced record on to the partition of its key, unchanged but for a header that says where it came from, and with it
// its identity.
func (l *lane) forward(rec *kgo.Record, partition int32) {
	headers := rec.Headers[:len(rec.Headers):len(rec.Headers)]
	if l.it.env.Origin == nil {
		origin := fmt.Appendf(nil, "%d/%d", rec.Partition, rec.Offset)
		headers = append(headers, kgo.RecordHeader{Key: schemas.HeaderOrigin, Value: origin})
	}
	l.out.add(kgo.Record{Topic: rec.Topic, Partition: partition, Key: rec.Key, Value: rec.Value, Headers: headers})
	l.tally.forwarded++
}

// outcome is what every outcome of the item begins with.
func (l *lane) outcome(rec *kgo.Record) schemas.Outcome {
	o := schemas.Outcome{
		Tenant:          l.it.env.Tenant,
		ID:              l.it.id,
		Index:           l.it.env.Index,
		Attempt:         l.it.env.Attempt,
		Ref:             l.it.env.Ref,
		SourceTopic:     rec.Topic,
		SourceEpoch:     l.epoch,
		SourcePartition: rec.Partition,
		SourceOffset:    rec.Offset,
		AcceptedAt:      rec.Timestamp.UTC(),
		JudgedAt:        l.now,
	}
	if l.it.env.Batch != "" {
		o.Batch = &l.it.env.Batch
	}
	if l.it.env.First != nil {
		o.AcceptedAt = l.it.env.First.AcceptedAt
	}
	return o
}

// unprocessed writes the item's outcome with every reason and its bytes as they came.
func (l *lane) unprocessed(rec *kgo.Record, v verdict) {
	outcome := schemas.Unprocessed{
		Outcome:  l.outcome(rec),
		Kind:     l.kind.name,
		ItemKind: l.judge.itemKind(),
		Reasons:  fitting(v.reasons),
		Format:   schemas.FormatAvro,
		Original: rec.Value,
		Sale:     v.sale,
	}
	value, err := l.out.encode(l.codecs.unprocessed, &outcome)
	if err != nil {
		l.deadLetter(rec, &outcome.Tenant, schemas.CodeInternalError, fmt.Sprintf("the outcome cannot be written: %v", err))
		return
	}
	l.add(rec, schemas.UnprocessedTopic(l.kind.name), value)
	l.tally.unprocessed++
	for _, r := range outcome.Reasons {
		l.tally.reasons = append(l.tally.reasons, r.Code)
	}
}

// fitting returns as many reasons as fit; where that is not all of them the last says how many there were.
func fitting(reasons []schemas.Reason) []schemas.Reason {
	size := 0
	for i, r := range reasons {
		size += len(r.Code) + len(r.Field) + len(r.Message) + 16
		if r.Value != nil {
			size += len(*r.Value)
		}
		if size > reasonsRoom {
			rest := schemas.Reason{Code: r.Code, Message: fmt.Sprintf("There are %d reasons; those from here on do not fit.", len(reasons))}
			return append(slices.Clone(reasons[:i]), rest)
		}
	}
	return reasons
}

// add writes an outcome to the partition that the batch's caller reads; for a bare record to the source's own.
func (l *lane) add(rec *kgo.Record, topic string, value []byte) {
	partition := l.it.env.Reply
	if partition < 0 {
		partition = rec.Partition
	}
	l.out.add(kgo.Record{
		Topic:     topic,
		Partition: partition % l.s.partitions[topic],
		Value:     value,
		Headers:   l.out.envelope(rec.Headers),
	})
	l.attempts.note(&l.it.env, rec.Timestamp)
}

// deadLetter keeps a record that cannot be read as an item: whole, with its source position.
func (l *lane) deadLetter(rec *kgo.Record, tenant *string, code, message string) {
	letter := schemas.DeadLetter{
		Tenant:     tenant,
		Topic:      rec.Topic,
		Epoch:      l.epoch,
		Partition:  rec.Partition,
		Offset:     rec.Offset,
		Headers:    make([]schemas.Header, len(rec.Headers)),
		Reason:     schemas.Reason{Code: code, Message: message},
		RecordedAt: rec.Timestamp.UTC(),
		At:         l.now,
	}
	if rec.Key != nil {
		letter.Key = &rec.Key
	}
	if rec.Value != nil {
		letter.Value = &rec.Value
	}
	for i, h := range rec.Headers {
		letter.Headers[i] = schemas.Header{Key: h.Key, Value: h.Value}
	}
	value, err := l.out.encode(l.s.dead, &letter)
	if err != nil {
		panic(fmt.Errorf("encode dead letter: %w", err)) // bytes and texts of ours: this cannot depend on the record
	}
	l.out.add(kgo.Record{
		Topic:     schemas.DeadLetters,
		Partition: rec.Partition % l.s.partitions[schemas.DeadLetters],
		Value:     value,
	})
	l.tally.dead++
	l.tally.reasons = append(l.tally.reasons, code)
}

// report logs a panic, which is a fault of ours whatever the item was.
func (l *lane) report(rec *kgo.Record, panicked any) {
	l.s.p.metrics.panics.Inc()
	l.s.log.Error("panic while judging", "topic", rec.Topic, "partition", strconv.Itoa(int(rec.Partition)), "offset", rec.Offset,
		"panic", panicked, "stack", string(debug.Stack()))
}
