// Package transactions finds the transactions that are open on topics, and ends those that Kafka has left behind.
//
// Readers of committed records stop before the first record of an open transaction. Usually its coordinator ends it: by its producer's word, or
// by itself when its time has passed. First it writes down what it has decided, in the topic __transaction_state, and then a marker into each
// partition. Apache Kafka 4.3.1 leaves out the partitions that have no leader at that moment, as if they were deleted; a lone broker's have none for
// a moment when it registers again after a kill. The transaction is then open for good in them, while it is committed elsewhere, and the readers wait for
// good. To abort it, as kafka-transactions.sh does, would undo a part of what was committed.
//
// So: [Find] asks the partitions who holds them back, and the coordinators what they know of it (KIP-664). What its coordinator is not at work on is
// left behind. [Decide] reads in __transaction_state what was decided on such a one, and [End] writes the markers that are missing.
package transactions

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/processors"
)

// Topics of Kafka's own: what coordinators of transactions remember, and what groups have committed.
const (
	StateTopic   = "__transaction_state"
	OffsetsTopic = "__consumer_offsets"
)

// What Kafka decided on a transaction.
const (
	Commit = "commit"
	Abort  = "abort"
)

// Open is a transaction that is open in partitions, and holds their last stable offsets back.
type Open struct {
	ID             string  `json:"id"` // transactional id; empty: no coordinator names the producer, or not to us
	ProducerID     int64   `json:"producer_id"`
	ProducerEpoch  int16   `json:"producer_epoch"`
	State          string  `json:"state"`           // of the id's latest transaction, as its coordinator says; empty: it does not
	Seconds        float64 `json:"seconds"`         // since it began; where its coordinator is not at work on it, since its last record
	TimeoutSeconds float64 `json:"timeout_seconds"` // after which Kafka should abort it; 0: not known
	LeftBehind     bool    `json:"left_behind"`     // its coordinator is not at work on it: it stays open
	Decided        string  `json:"decided"`         // [Commit] or [Abort], after [Decide]; empty: not known
	Partitions     []Place `json:"partitions"`

	markers decision // with Decided
}

// Place is where a transaction is open: its first record there. Its text is topic/partition@offset.
type Place struct {
	Topic     string
	Partition int32
	Offset    int64

	coordinator int32 // the highest epoch of a coordinator that has written a marker of the producer's there
	last        int64 // time of its last record there, in milliseconds
}

// at is a place without what changes there.
func (p Place) at() Place { return Place{Topic: p.Topic, Partition: p.Partition, Offset: p.Offset} }

// String says whose it is and what its coordinator says of it.
func (t *Open) String() string {
	who := fmt.Sprintf("%s (producer %d, epoch %d)", t.ID, t.ProducerID, t.ProducerEpoch)
	switch {
	case t.ID == "":
		return fmt.Sprintf("of producer %d, epoch %d, which no coordinator names to us,", t.ProducerID, t.ProducerEpoch)
	case t.LeftBehind:
		return who + ", on which its coordinator is no longer at work,"
	case t.State == "":
		return who + ", of which its coordinator says nothing now,"
	default:
		return fmt.Sprintf("%s, state %s, which Kafka aborts after %.0f s,", who, t.State, t.TimeoutSeconds)
	}
}

func (p Place) String() string { return fmt.Sprintf("%s/%d@%d", p.Topic, p.Partition, p.Offset) }

// MarshalText is for JSON.
func (p Place) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what [Place.MarshalText] wrote.
func (p *Place) UnmarshalText(text []byte) error {
	topic, rest, _ := strings.Cut(string(text), "/")
	p.Topic = topic
	if _, err := fmt.Sscanf(rest, "%d@%d", &p.Partition, &p.Offset); err != nil {
		return fmt.Errorf("%q is not topic/partition@offset: %w", text, err)
	}
	return nil
}

// Find finds the transactions that hold topics back, the oldest first.
func Find(ctx context.Context, adm *kadm.Client, topics []string, now time.Time) ([]Open, error) {
	held, err := heldBack(ctx, adm, topics...)
	if err != nil {
		return nil, err
	}
	return list(ctx, adm, held, now)
}

// FindCommits finds the transactions of processors that hold back what their groups have committed, the oldest first. Those of other applications
// come and go there as well, so that one whose id is not known is none of ours.
func FindCommits(ctx context.Context, adm *kadm.Client, now time.Time) ([]Open, error) {
	open, err := Find(ctx, adm, []string{OffsetsTopic}, now)
	return slices.DeleteFunc(open, func(t Open) bool { return !processors.OwnsTransaction(t.ID) }), err
}

// heldBack are the partitions of topics whose last stable offset lies below their end. The end is asked first: what is written meanwhile does not
// make the other seem to lie below it.
func heldBack(ctx context.Context, adm *kadm.Client, topics ...string) (kadm.TopicsSet, error) {
	ends, err := adm.ListEndOffsets(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("read where the topics end: %w", err)
	}
	stable, err := adm.ListCommittedOffsets(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("read the last stable offsets: %w", err)
	}
	held := kadm.TopicsSet{}
	ends.Each(func(end kadm.ListedOffset) {
		if o, ok := stable.Lookup(end.Topic, end.Partition); ok && o.Err == nil && end.Err == nil && o.Offset < end.Offset {
			held.Add(end.Topic, end.Partition)
		}
	})
	return held, nil
}

// list finds the transactions that are open in partitions, the oldest first. What the coordinators are not at work on must be there before they are
// asked and afterwards: else it has ended, or had not begun.
func list(ctx context.Context, adm *kadm.Client, in kadm.TopicsSet, now time.Time) ([]Open, error) {
	before, err := producers(ctx, adm, in)
	if err != nil || len(before) == 0 {
		return []Open{}, err
	}
	described, err := coordinators(ctx, adm, before)
	if err != nil {
		return nil, err
	}
	open := combine(before, described, now)
	left := places(open, func(t *Open) bool { return !t.atWork() })
	if len(left) > 0 {
		after, err := producers(ctx, adm, left)
		if err != nil {
			return nil, err
		}
		open = stillOpen(open, after)
	}
	slices.SortStableFunc(open, func(a, b Open) int { return cmp.Compare(b.Seconds, a.Seconds) })
	return open, nil
}

// atWork reports that a coordinator says that it will end the transaction.
func (t *Open) atWork() bool { return t.ID != "" && !t.LeftBehind }

// places are the partitions in which some of the transactions are open.
func places(open []Open, some func(*Open) bool) kadm.TopicsSet {
	in := kadm.TopicsSet{}
	for i := range open {
		if some(&open[i]) {
			for _, p := range open[i].Partitions {
				in.Add(p.Topic, p.Partition)
			}
		}
	}
	return in
}

// producer is one of an epoch. Since KIP-890 that is one transaction of it; before, its transactions of one epoch end in their order.
type producer struct {
	id    int64
	epoch int16
}

// producers are those that have an open transaction in partitions, in their order. A partition that has no leader now says nothing.
func producers(ctx context.Context, adm *kadm.Client, in kadm.TopicsSet) ([]kadm.DescribedProducer, error) {
	if len(in) == 0 {
		return nil, nil
	}
	described, err := adm.DescribeProducers(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("read who writes transactions: %w", err)
	}
	return slices.DeleteFunc(described.SortedProducers(), func(p kadm.DescribedProducer) bool { return p.CurrentTxnStartOffset < 0 }), nil
}

// coordinators are asked what they know of producers. They name only those that we may see.
func coordinators(ctx context.Context, adm *kadm.Client, of []kadm.DescribedProducer) ([]kadm.DescribedTransaction, error) {
	ids := map[int64]bool{}
	for _, p := range of {
		ids[p.ProducerID] = true
	}
	listed, err := adm.ListTransactions(ctx, slices.Sorted(maps.Keys(ids)), nil)
	if err != nil {
		return nil, fmt.Errorf("list transactions: %w", err)
	}
	names := listed.TransactionalIDs()
	if len(names) == 0 {
		return nil, nil
	}
	answers, err := adm.DescribeTransactions(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describe transactions: %w", err)
	}
	described := answers.Sorted()
	for i := range described {
		if d := &described[i]; d.Err != nil {
			d.ProducerID = listed[d.TxnID].ProducerID
		}
	}
	return described, nil
}

// combine puts together what partitions and coordinators say. Where a coordinator is at work on some of a producer's places, the others are those of an
// earlier transaction, which it has left behind.
func combine(found []kadm.DescribedProducer, described []kadm.DescribedTransaction, now time.Time) []Open {
	since := func(milli int64) float64 { return max(0, now.Sub(time.UnixMilli(milli)).Seconds()) }
	at := map[producer]int{}
	var all []Open
	for _, p := range found {
		by := producer{p.ProducerID, p.ProducerEpoch}
		i, ok := at[by]
		if !ok {
			i, at[by] = len(all), len(all)
			all = append(all, Open{ProducerID: p.ProducerID, ProducerEpoch: p.ProducerEpoch})
		}
		all[i].Partitions = append(all[i].Partitions, Place{p.Topic, p.Partition, p.CurrentTxnStartOffset, max(0, p.CoordinatorEpoch), p.LastTimestamp})
	}
	open := []Open{}
	add := func(t Open, places []Place) {
		if t.Partitions = places; len(places) == 0 {
			return
		}
		if t.Seconds == 0 {
			t.Seconds = since(places[0].last)
			for _, p := range places {
				t.Seconds = min(t.Seconds, since(p.last))
			}
		}
		open = append(open, t)
	}
	for _, t := range all {
		i := slices.IndexFunc(described, func(d kadm.DescribedTransaction) bool { return d.ProducerID == t.ProducerID })
		if i < 0 {
			add(t, t.Partitions)
			continue
		}
		d := &described[i]
		t.ID = d.TxnID
		if d.Err != nil { // nothing is known of it now
			add(t, t.Partitions)
			continue
		}
		t.State, t.TimeoutSeconds = d.State, float64(d.TimeoutMillis)/1e3
		var current, left []Place
		for _, p := range t.Partitions {
			if d.Topics.Lookup(p.Topic, p.Partition) {
				current = append(current, p)
			} else {
				left = append(left, p)
			}
		}
		working := t
		if d.StartTimestamp > 0 {
			working.Seconds = since(d.StartTimestamp)
		}
		add(working, current)
		t.LeftBehind = true
		add(t, left)
	}
	return open
}

// where is a place of a producer.
type where struct {
	by producer
	at Place
}

func (t *Open) where(p Place) where { return where{producer{t.ProducerID, t.ProducerEpoch}, p.at()} }

// stillOpen drops what no coordinator is at work on and is not there any more.
func stillOpen(open []Open, after []kadm.DescribedProducer) []Open {
	still := []Open{}
	there := map[where]bool{}
	for _, p := range after {
		there[where{producer{p.ProducerID, p.ProducerEpoch}, Place{Topic: p.Topic, Partition: p.Partition, Offset: p.CurrentTxnStartOffset}}] = true
	}
	for _, t := range open {
		if !t.atWork() {
			t.Partitions = slices.DeleteFunc(t.Partitions, func(p Place) bool { return !there[t.where(p)] })
		}
		if len(t.Partitions) > 0 {
			still = append(still, t)
		}
	}
	return still
}

// Reader reads a topic's records, each partition p from from[p] to below to[p], and calls each for every one until it returns false.
type Reader func(ctx context.Context, topic string, from, to []int64, each func(*kgo.Record) (bool, error)) error

// Decide says of those that no coordinator is at work on what Kafka decided, as far as its coordinators' log still has it, and of those that none
// names whether they are left behind. A producer's transactions of one epoch may have ended differently in different partitions; they are parted
// then.
func Decide(ctx context.Context, adm *kadm.Client, read Reader, open []Open) ([]Open, error) {
	open = slices.Clone(open)
	l := newLog(open)
	if len(l.wanted) == 0 {
		return open, nil
	}
	starts, err := adm.ListStartOffsets(ctx, StateTopic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask Kafka about %s: %w", StateTopic, err)
	}
	ends, err := adm.ListEndOffsets(ctx, StateTopic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask Kafka about %s: %w", StateTopic, err)
	}
	n := int32(len(ends[StateTopic]))
	from, to := make([]int64, n), make([]int64, n) // nothing is read of a partition where both are 0
	for p := range n {
		if slices.ContainsFunc(l.wanted, func(t *Open) bool { return t.ID == "" || coordinatedIn(t.ID, n) == p }) {
			from[p], to[p] = starts[StateTopic][p].Offset, ends[StateTopic][p].Offset
		}
	}
	err = read(ctx, StateTopic, from, to, func(rec *kgo.Record) (bool, error) {
		var key kmsg.TxnMetadataKey
		var value kmsg.TxnMetadataValue
		if err := key.ReadFrom(rec.Key); err != nil || key.Version != 0 || rec.Value == nil {
			return true, nil //nolint:nilerr // Kafka may write of other things there one day
		}
		if err := value.ReadFrom(rec.Value); err != nil {
			return false, fmt.Errorf("%s/%d@%d cannot be read: %w", rec.Topic, rec.Partition, rec.Offset, err)
		}
		l.add(key.TransactionalID, &value)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	return l.decided(open), nil
}

// log is what the coordinators' log says of transactions.
type log struct {
	wanted    []*Open
	ids       map[int64]string                  // of their producers
	latest    map[string]*kmsg.TxnMetadataValue // by such an id
	decisions map[*Open]map[Place]decision
}

func newLog(open []Open) *log {
	l := &log{ids: map[int64]string{}, latest: map[string]*kmsg.TxnMetadataValue{}, decisions: map[*Open]map[Place]decision{}}
	for i := range open {
		if t := &open[i]; !t.atWork() {
			l.wanted = append(l.wanted, t)
			l.decisions[t] = map[Place]decision{}
		}
	}
	return l
}

// add takes a record in, in the order of its partition.
func (l *log) add(id string, value *kmsg.TxnMetadataValue) {
	for _, t := range l.wanted {
		if value.ProducerID != t.ProducerID {
			continue
		}
		l.ids[t.ProducerID], l.latest[id] = id, nil
		if d, ok := decides(value, t); ok {
			for _, p := range t.Partitions {
				if before, ok := l.decisions[t][p.at()]; d.marks(value, p) && (!ok || d.holds(before)) {
					l.decisions[t][p.at()] = d
				}
			}
		}
	}
	if _, ok := l.latest[id]; ok {
		l.latest[id] = value
	}
}

// decided fills in what was found.
func (l *log) decided(open []Open) []Open {
	parted := []Open{}
	for i := range open {
		t := &open[i]
		if t.atWork() {
			parted = append(parted, *t)
			continue
		}
		if id := l.ids[t.ProducerID]; t.ID == "" && id != "" {
			// It has another producer now, or we may not see it but here.
			t.ID = id
			t.LeftBehind = !slices.ContainsFunc(t.Partitions, func(p Place) bool { return t.ProducerID == l.latest[id].ProducerID && unfinished(l.latest[id], p) })
			if !t.LeftBehind {
				parted = append(parted, *t)
				continue
			}
		}
		byDecision := map[decision][]Place{}
		for _, p := range t.Partitions {
			d := l.decisions[t][p.at()]
			byDecision[d] = append(byDecision[d], p)
		}
		for _, d := range slices.SortedFunc(maps.Keys(byDecision), func(a, b decision) int { return cmp.Or(cmp.Compare(a.what, b.what), cmp.Compare(a.epoch, b.epoch)) }) {
			part := *t
			part.Decided, part.markers, part.Partitions = d.what, d, byDecision[d]
			parted = append(parted, part)
		}
	}
	return parted
}

// unfinished reports whether a coordinator will write a marker to a place, as it says in its log.
func unfinished(value *kmsg.TxnMetadataValue, p Place) bool {
	switch value.State {
	case kmsg.TransactionStateOngoing, kmsg.TransactionStatePrepareCommit, kmsg.TransactionStatePrepareAbort, kmsg.TransactionStatePrepareEpochFence:
		return lists(value, p)
	default:
		return false
	}
}

// decision is one on a transaction, and what its markers say.
type decision struct {
	what    string
	epoch   int16 // of the producer
	version int8  // of transactions
	done    bool  // its coordinator takes all its markers for written, and no longer says where
}

// decides reports whether a record of the coordinators' log is a decision on a transaction of t's producer, at its epoch or a later one. Since KIP-890
// (version 2) a decision raises the epoch: one at that epoch was on the transaction before.
func decides(value *kmsg.TxnMetadataValue, t *Open) (decision, bool) {
	d := decision{epoch: value.ProducerEpoch, version: int8(min(2, value.ClientTransactionVersion))}
	later := int(value.ProducerEpoch) - int(t.ProducerEpoch)
	if value.ProducerID != t.ProducerID || later < 0 || d.version >= 2 && later == 0 {
		return decision{}, false
	}
	switch value.State {
	case kmsg.TransactionStatePrepareCommit:
		d.what = Commit
	case kmsg.TransactionStatePrepareAbort:
		d.what = Abort
	case kmsg.TransactionStateCompleteCommit:
		d.what, d.done = Commit, true
	case kmsg.TransactionStateCompleteAbort:
		d.what, d.done = Abort, true
	default:
		return decision{}, false
	}
	return d, !d.done || d.version >= 2 && later == 1 // what was decided first is compacted away first
}

// marks reports whether the markers of a decision that a record is belong to a place.
func (d decision) marks(value *kmsg.TxnMetadataValue, p Place) bool { return d.done || lists(value, p) }

// holds reports whether a decision holds although there was one before. The markers of the one before have ended what was open by then, where
// epochs stay; where each decision raises the epoch, nothing of a later transaction is in the place, or it would have that epoch.
func (d decision) holds(before decision) bool { return before.version < 2 }

func lists(value *kmsg.TxnMetadataValue, p Place) bool {
	return slices.ContainsFunc(value.Topics, func(t kmsg.TxnMetadataValueTopic) bool {
		return t.Topic == p.Topic && slices.Contains(t.Partitions, p.Partition)
	})
}

// coordinatedIn is the partition of the coordinators' log that has a transactional id: by the absolute value of Java's String.hashCode, of which
// the least one has none and counts as 0.
func coordinatedIn(id string, partitions int32) int32 {
	var hash int32
	for _, unit := range utf16.Encode([]rune(id)) {
		hash = 31*hash + int32(unit)
	}
	if hash < 0 {
		hash = max(0, -hash)
	}
	return hash % partitions
}

// End writes the markers of what was decided on those that are left behind, and finds that they have ended. What has ended meanwhile is left alone;
// where a producer has gone on meanwhile nothing is written, because its next transaction would be ended with that. Between the last look and the
// markers it must not go on: since Kafka 4.2 the broker sees to that where transactions are of version 2.
func End(ctx context.Context, client *kgo.Client, open []Open) error {
	adm := kadm.NewClient(client)
	ours := func(t *Open) bool { return t.LeftBehind && t.Decided != "" }
	now, err := list(ctx, adm, places(open, ours), time.Now())
	if err != nil {
		return err
	}
	type spot struct { // where a producer has one transaction at most
		producer  int64
		topic     string
		partition int32
	}
	there := map[spot]where{} // zero: its coordinator is at work on it
	for i := range now {
		for _, p := range now[i].Partitions {
			at := now[i].where(p)
			if now[i].atWork() {
				at = where{}
			}
			there[spot{now[i].ProducerID, p.Topic, p.Partition}] = at
		}
	}
	req := kmsg.NewPtrWriteTxnMarkersRequest()
	written := map[where]bool{}
	for i := range open {
		t := &open[i]
		if !ours(t) {
			continue
		}
		for _, p := range t.Partitions {
			switch at, still := there[spot{t.ProducerID, p.Topic, p.Partition}]; {
			case !still:
				continue
			case at != t.where(p):
				return fmt.Errorf("%s has gone on in %s/%d, so that nothing was written: is it stopped?", t.ID, p.Topic, p.Partition)
			}
			written[t.where(p)] = true
			marker := kmsg.NewWriteTxnMarkersRequestMarker()
			marker.ProducerID, marker.ProducerEpoch, marker.Committed = t.ProducerID, t.markers.epoch, t.Decided == Commit
			marker.CoordinatorEpoch, marker.TransactionVersion = p.coordinator, t.markers.version
			marker.Topics = []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: p.Topic, Partitions: []int32{p.Partition}}}
			req.Markers = append(req.Markers, marker)
		}
	}
	if len(req.Markers) == 0 {
		return nil
	}
	for _, shard := range client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return fmt.Errorf("write markers of transactions: %w", shard.Err)
		}
		for _, m := range shard.Resp.(*kmsg.WriteTxnMarkersResponse).Markers {
			for _, topic := range m.Topics {
				for _, p := range topic.Partitions {
					if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
						return fmt.Errorf("write the marker of producer %d into %s/%d: %w", m.ProducerID, topic.Topic, p.Partition, err)
					}
				}
			}
		}
	}
	after, err := producers(ctx, adm, places(open, ours))
	if err != nil {
		return err
	}
	for _, p := range after {
		if written[where{producer{p.ProducerID, p.ProducerEpoch}, Place{Topic: p.Topic, Partition: p.Partition, Offset: p.CurrentTxnStartOffset}}] {
			return fmt.Errorf("producer %d still holds %s/%d back from offset %d, after Kafka took its marker", p.ProducerID, p.Topic, p.Partition, p.CurrentTxnStartOffset)
		}
	}
	return nil
}
