// Package transactions finds the transactions that are open on topics, and ends those that Kafka has left behind.
//
// Readers of committed records stop before the first record of an open transaction. Usually its coordinator ends it: by its producer's word, or
// by itself when its time has passed. First it writes down what it has decided, in the topic __transaction_state, and then a marker into each
// partition. An Apache Kafka that is killed between the two has been seen to take the markers for written when it comes back (4.3.1, one broker).
// The transaction is then open for good wherever no marker was written, while it is committed elsewhere, and the readers wait for good. To abort
// it, as kafka-transactions.sh does, would undo a part of what was committed.
//
// So: [Find] asks the partitions who holds them back, and the coordinators what they know of it (KIP-664). One that its coordinator no longer
// works on is left behind. [Decide] reads in __transaction_state what was decided on such a one, and [End] writes the markers that are missing.
package transactions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/twmb/franz-go/pkg/kadm"
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
	ID             string  `json:"id"` // transactional id; empty: no coordinator knows the producer
	ProducerID     int64   `json:"producer_id"`
	ProducerEpoch  int16   `json:"producer_epoch"`
	State          string  `json:"state"`           // of the id's latest transaction, as its coordinator says; empty: it knows none
	Seconds        float64 `json:"seconds"`         // since it began; where its coordinator is not at work on it, since its last record
	TimeoutSeconds float64 `json:"timeout_seconds"` // after which Kafka should abort it
	LeftBehind     bool    `json:"left_behind"`     // no coordinator is at work on it: it stays open
	Decided        string  `json:"decided"`         // [Commit] or [Abort], after [Decide]; empty: not known
	Partitions     []Place `json:"partitions"`

	epoch int16 // of the markers, with Decided
}

// Place is where a transaction is open: its first record there. Its text is topic/partition@offset.
type Place struct {
	Topic     string
	Partition int32
	Offset    int64

	coordinator int32 // the highest epoch of a coordinator that has written a marker there
}

// String says whose it is and what its coordinator says of it.
func (t *Open) String() string {
	who := fmt.Sprintf("%s (producer %d, epoch %d)", t.ID, t.ProducerID, t.ProducerEpoch)
	switch {
	case t.ID == "":
		return fmt.Sprintf("of producer %d, epoch %d, which no coordinator knows,", t.ProducerID, t.ProducerEpoch)
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

// Find lists the transactions that hold topics back, the oldest first, and those of processors that hold back what their groups have committed,
// where the latter may be asked.
func Find(ctx context.Context, adm *kadm.Client, topics []string, now time.Time) ([]Open, error) {
	held, err := heldBack(ctx, adm, topics...)
	if err != nil {
		return nil, err
	}
	commits, err := heldBack(ctx, adm, OffsetsTopic)
	if denied := new(kadm.AuthError); err != nil && !errors.As(err, &denied) {
		return nil, err
	}
	held.Merge(commits)
	open, err := list(ctx, adm, held, now)
	return slices.DeleteFunc(open, func(t Open) bool {
		return !t.keep(func(p Place) bool {
			return p.Topic != OffsetsTopic || strings.HasPrefix(t.ID, processors.TransactionalPrefix)
		})
	}), err
}

// heldBack are the partitions of topics whose last stable offset lies below their end.
func heldBack(ctx context.Context, adm *kadm.Client, topics ...string) (kadm.TopicsSet, error) {
	held := kadm.TopicsSet{}
	stable, err := adm.ListCommittedOffsets(ctx, topics...)
	if err != nil {
		return held, fmt.Errorf("read the last stable offsets: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, topics...)
	if err != nil {
		return held, fmt.Errorf("read where the topics end: %w", err)
	}
	ends.Each(func(end kadm.ListedOffset) {
		if o, ok := stable.Lookup(end.Topic, end.Partition); ok && o.Err == nil && end.Err == nil && o.Offset < end.Offset {
			held.Add(end.Topic, end.Partition)
		}
	})
	return held, nil
}

// list finds the transactions that are open in partitions.
func list(ctx context.Context, adm *kadm.Client, held kadm.TopicsSet, now time.Time) ([]Open, error) {
	open := []Open{}
	if len(held) == 0 {
		return open, nil
	}
	since := func(milli int64) float64 { return max(0, now.Sub(time.UnixMilli(milli)).Seconds()) }
	found, err := producers(ctx, adm, held)
	if err != nil || len(found) == 0 {
		return open, err
	}
	at := map[producer]int{}
	ids := map[int64]bool{}
	for _, p := range found {
		i, ok := at[producer{p.ProducerID, p.ProducerEpoch}]
		if !ok {
			i = len(open)
			at[producer{p.ProducerID, p.ProducerEpoch}] = i
			ids[p.ProducerID] = true
			open = append(open, Open{ProducerID: p.ProducerID, ProducerEpoch: p.ProducerEpoch, Seconds: since(p.LastTimestamp), LeftBehind: true})
		}
		open[i].Seconds = min(open[i].Seconds, since(p.LastTimestamp))
		open[i].Partitions = append(open[i].Partitions, Place{p.Topic, p.Partition, p.CurrentTxnStartOffset, max(0, p.CoordinatorEpoch)})
	}
	if open, err = askCoordinators(ctx, adm, open, slices.Sorted(maps.Keys(ids)), since); err != nil {
		return nil, err
	}
	if open, err = stillOpen(ctx, adm, open); err != nil {
		return nil, err
	}
	slices.SortStableFunc(open, func(a, b Open) int { return cmp.Compare(b.Seconds, a.Seconds) })
	return open, nil
}

// producer is one in the time between two of its epochs, in which its transactions end in their order.
type producer struct {
	id    int64
	epoch int16
}

// producers are those that have an open transaction in partitions, in their order.
func producers(ctx context.Context, adm *kadm.Client, in kadm.TopicsSet) ([]kadm.DescribedProducer, error) {
	described, err := adm.DescribeProducers(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("read who writes transactions: %w", err)
	}
	return slices.DeleteFunc(described.SortedProducers(), func(p kadm.DescribedProducer) bool { return p.CurrentTxnStartOffset < 0 }), nil
}

// askCoordinators fills in what coordinators know. Where one is at work on some of a transaction's places, the others are another one's, which it
// has left behind.
func askCoordinators(ctx context.Context, adm *kadm.Client, open []Open, ids []int64, since func(int64) float64) ([]Open, error) {
	listed, err := adm.ListTransactions(ctx, ids, nil)
	if err != nil {
		return nil, fmt.Errorf("list transactions: %w", err)
	}
	names := listed.TransactionalIDs()
	if len(names) == 0 {
		return open, nil
	}
	described, err := adm.DescribeTransactions(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describe transactions: %w", err)
	}
	var parted []Open
	for _, t := range open {
		for _, d := range described.Sorted() {
			if d.Err != nil { // nothing is known of it now
				d.ProducerID, d.State = listed[d.TxnID].ProducerID, ""
			}
			if t.ProducerID != d.ProducerID {
				continue // or the id has another producer by now
			}
			t.ID, t.State, t.TimeoutSeconds = d.TxnID, d.State, float64(d.TimeoutMillis)/1e3
			current := t
			current.Partitions = slices.Clone(t.Partitions)
			if !current.keep(func(p Place) bool { return d.Err != nil || d.Topics.Lookup(p.Topic, p.Partition) }) {
				break
			}
			if current.LeftBehind = false; d.StartTimestamp > 0 {
				current.Seconds = since(d.StartTimestamp)
			}
			parted = append(parted, current)
			t.keep(func(p Place) bool { return d.Err == nil && !d.Topics.Lookup(p.Topic, p.Partition) })
			break
		}
		if len(t.Partitions) > 0 {
			parted = append(parted, t)
		}
	}
	return parted, nil
}

// stillOpen drops what has ended between the partitions' answer and the coordinators': what these do not know of, and is there afterwards, they
// have left behind.
func stillOpen(ctx context.Context, adm *kadm.Client, open []Open) ([]Open, error) {
	left := kadm.TopicsSet{}
	for i := range open {
		if open[i].LeftBehind {
			for _, p := range open[i].Partitions {
				left.Add(p.Topic, p.Partition)
			}
		}
	}
	if len(left) == 0 {
		return open, nil
	}
	found, err := producers(ctx, adm, left)
	if err != nil {
		return nil, err
	}
	type where struct {
		by producer
		at Place
	}
	now := map[where]bool{}
	for _, p := range found {
		now[where{producer{p.ProducerID, p.ProducerEpoch}, Place{Topic: p.Topic, Partition: p.Partition, Offset: p.CurrentTxnStartOffset}}] = true
	}
	return slices.DeleteFunc(open, func(t Open) bool {
		return t.LeftBehind && !t.keep(func(p Place) bool {
			p.coordinator = 0
			return now[where{producer{t.ProducerID, t.ProducerEpoch}, p}]
		})
	}), nil
}

// keep keeps some of the places, and reports whether there are any.
func (t *Open) keep(some func(Place) bool) bool {
	t.Partitions = slices.DeleteFunc(t.Partitions, func(p Place) bool { return !some(p) })
	return len(t.Partitions) > 0
}

// Reader reads a topic's records, each partition p from from[p] to below to[p], and calls each for every one until it returns false.
type Reader func(ctx context.Context, topic string, from, to []int64, each func(*kgo.Record) (bool, error)) error

// Decide says of those that are left behind what Kafka decided, as far as its coordinators' log still has it. A producer's transactions of one
// epoch may have ended differently in different partitions; they are parted then.
func Decide(ctx context.Context, adm *kadm.Client, read Reader, open []Open) ([]Open, error) {
	byID := map[string][]*Open{}
	for i := range open {
		if t := &open[i]; t.LeftBehind && t.ID != "" {
			byID[t.ID] = append(byID[t.ID], t)
		}
	}
	if len(byID) == 0 {
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
	for id := range byID {
		p := coordinatedIn(id, n)
		from[p], to[p] = starts[StateTopic][p].Offset, ends[StateTopic][p].Offset
	}
	decisions := map[*Open]map[Place]decision{}
	err = read(ctx, StateTopic, from, to, func(rec *kgo.Record) (bool, error) {
		var key kmsg.TxnMetadataKey
		var value kmsg.TxnMetadataValue
		if err := key.ReadFrom(rec.Key); err != nil || key.Version != 0 || rec.Value == nil {
			return true, nil //nolint:nilerr // Kafka may write of other things there one day
		}
		transactions := byID[key.TransactionalID]
		if transactions == nil {
			return true, nil
		}
		if err := value.ReadFrom(rec.Value); err != nil {
			return false, fmt.Errorf("%s/%d@%d cannot be read: %w", rec.Topic, rec.Partition, rec.Offset, err)
		}
		for _, t := range transactions {
			if d, ok := decides(&value, t); ok {
				if decisions[t] == nil {
					decisions[t] = map[Place]decision{}
				}
				for _, p := range t.Partitions {
					if lists(&value, p) {
						decisions[t][p] = d
					}
				}
			}
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	var parted []Open
	for i := range open {
		byDecision := map[decision][]Place{}
		for _, p := range open[i].Partitions {
			d := decisions[&open[i]][p]
			byDecision[d] = append(byDecision[d], p)
		}
		for _, d := range slices.SortedFunc(maps.Keys(byDecision), func(a, b decision) int { return cmp.Compare(a.what, b.what) }) {
			part := open[i]
			part.Decided, part.epoch, part.Partitions = d.what, d.epoch, byDecision[d]
			parted = append(parted, part)
		}
	}
	return parted, nil
}

// decision is one on a transaction. Its markers have an epoch of the producer.
type decision struct {
	what  string
	epoch int16
}

// decides reports whether a record of the coordinators' log is a decision on a transaction of t's producer, at its epoch or a later one. Of several
// such that list a place the last one holds: the markers of those before it have ended what was open there.
func decides(value *kmsg.TxnMetadataValue, t *Open) (decision, bool) {
	first := t.ProducerEpoch
	if value.ClientTransactionVersion >= 2 {
		first++ // KIP-890: the decision raises the epoch, and that of this epoch was on the transaction before
	}
	if value.ProducerID != t.ProducerID || value.ProducerEpoch < first {
		return decision{}, false
	}
	switch value.State {
	case kmsg.TransactionStatePrepareCommit:
		return decision{Commit, value.ProducerEpoch}, true
	case kmsg.TransactionStatePrepareAbort:
		return decision{Abort, value.ProducerEpoch}, true
	default:
		return decision{}, false
	}
}

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

// End writes the markers of what was decided on those that are left behind, and finds that they have ended. A producer that has gone on in one
// of the partitions makes it fail there.
func End(ctx context.Context, adm *kadm.Client, open []Open) error {
	var markers []kadm.TxnMarkers
	places := kadm.TopicsSet{}
	ended := slices.DeleteFunc(slices.Clone(open), func(t Open) bool { return !t.LeftBehind || t.Decided == "" })
	for _, t := range ended {
		for _, p := range t.Partitions {
			one := kadm.TopicsSet{}
			one.Add(p.Topic, p.Partition)
			places.Add(p.Topic, p.Partition)
			markers = append(markers, kadm.TxnMarkers{
				ProducerID: t.ProducerID, ProducerEpoch: t.epoch, Commit: t.Decided == Commit, CoordinatorEpoch: p.coordinator, Topics: one,
			})
		}
	}
	if len(markers) == 0 {
		return nil
	}
	written, err := adm.WriteTxnMarkers(ctx, markers...)
	if err != nil {
		return fmt.Errorf("write markers of transactions: %w", err)
	}
	for _, r := range written.SortedPartitions() {
		if r.Err != nil {
			return fmt.Errorf("write the marker of producer %d into %s/%d: %w", r.ProducerID, r.Topic, r.Partition, r.Err)
		}
	}
	found, err := producers(ctx, adm, places)
	if err != nil {
		return err
	}
	for _, p := range found {
		for _, t := range ended {
			if (producer{t.ProducerID, t.ProducerEpoch}) == (producer{p.ProducerID, p.ProducerEpoch}) {
				return fmt.Errorf("producer %d still holds %s/%d back from offset %d, after Kafka took its marker", p.ProducerID, p.Topic, p.Partition, p.CurrentTxnStartOffset)
			}
		}
	}
	return nil
}
