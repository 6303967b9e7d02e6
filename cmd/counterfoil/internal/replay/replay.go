// Package replay puts unprocessed items and dead letters through once more, each as the next attempt at the same item, or says beforehand what
// would become of them.
//
// # Once
//
// A run selects, in ClickHouse, items whose last attempt is unprocessed, and publishes each as attempt n+1. Two runs must not publish the same
// attempt, whether they race, or one was killed, or stopped for a week. So a run begins by taking the transactional id "replay" over
// ([replayer.claim]): Kafka ends the transaction that a run before it left open, and refuses whatever that run still sends. Then it waits until
// the processors have judged, and the sink has written, all that was there at that moment ([replayer.settle]). What it then selects knows of
// every replay that was ever published, and nobody else can publish one before this run is over or taken over itself. Each chunk of items is one
// transaction. The engine has its own guard: it drops a replay whose attempt has an outcome.
//
// # The record
//
// A replay's value is the item as it was accepted: an unprocessed outcome and a dead letter carry it byte for byte, so that it does not matter what
// retention has left of the item topics. Its envelope is the item's, with the next attempt and with the header first ([schemas.First]): the
// item's identity, the time of its acceptance, and its place among the items of its key. The engine's own code says key and partition, as it
// says in a dry run what would become of the item ([processors.Rehearsal]).
//
// # Order
//
// A replay is judged now, but must not undo what came after the item:
//
//   - a sale keeps its place: sales_current shows it only where no later sale of its id is;
//   - an ownership change that sets a quantity is superseded by any later change of its key, one that adds by a later one that sets: such items
//     are left alone and named. The engine sees to it once more for changes that come in meanwhile, where the record is still there;
//   - a participant is referred by whoever was judged first;
//   - a transaction keeps its time of acceptance, by which transactions_current tells the latest of a natural key; events are independent of
//     each other;
//   - a record of a reference or fact topic is put back only where its table has no later one of its own id.
//
// The place of an item that was never judged in the partition of its key (a dead letter, an item whose defects are none any more, and those of other
// partitioners) is where it would have been by its time of acceptance. A sale without an id has none but its own attempts beside it: it keeps its offset.
//
// # What cannot be replayed
//
// Items that were refused at the door because they do not fit the schema: there is no record of them. Dead letters that today's code cannot read
// either, records without tenant or with a malformed envelope, and those of topics that only we write. They are named and counted.
package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/offsets"
	"github.com/counterfoil/counterfoil/processors"
	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// Deps are what a replay works with.
type Deps struct {
	Kafka    []kgo.Opt // seeds, TLS, SASL
	Admin    *kadm.Client
	Conn     *clickhouse.Conn
	Registry *schemas.Registry
	Epochs   schemas.Epochs
	// Judges are the processors' groups, with the topics that each of them reads.
	Judges map[string][]string
	// Rehearse makes the rehearsal of a processor.
	Rehearse func(ctx context.Context, processor string) (*processors.Rehearsal, error)
	// Read reads a topic's committed records, each partition p from from[p] to below to[p], and calls each for every one until it returns false.
	Read func(ctx context.Context, topic string, from, to []int64, each func(*kgo.Record) (bool, error)) error
	// Progress is told what is being done, several times a second.
	Progress func(doing string)
}

// Options say what to replay, and how.
type Options struct {
	clickhouse.Selection
	DeadLetters bool          // instead of unprocessed items
	Key         string        // only items of this key, see [Item].Key; empty: any
	DryRun      bool          // say what would become of the items; publish nothing
	Wait        bool          // for the outcomes
	Limit       int           // more items than this, whatever their keys, are refused
	Stuck       time.Duration // how long to wait for a processor or the sink that does not move
}

// Fates of items.
const (
	FateProcessed     = "processed"
	FateUnprocessed   = "unprocessed"    // once more
	FateDeadLetter    = "dead_letter"    // once more
	FatePublished     = "published"      // and not waited for
	FateSuperseded    = "superseded"     // left alone: a later item of its key has settled the matter
	FateNotReplayable = "not_replayable" // left alone
)

// Item is an item that was selected.
type Item struct {
	Kind    string           `json:"kind"` // topic
	Tenant  string           `json:"tenant"`
	ID      string           `json:"id,omitempty"`
	Batch   string           `json:"batch,omitempty"` // key
	Index   int32            `json:"index"`
	Ref     *string          `json:"ref,omitempty"`
	Key     string           `json:"key,omitempty"`     // a sale's id, user/SKU of a change of ownership, the own id of a reference or fact
	Source  string           `json:"source,omitempty"`  // of a dead letter: where its record lies
	Attempt int32            `json:"attempt,omitempty"` // the one that this replay is
	Was     []schemas.Reason `json:"was"`
	Fate    string           `json:"fate"` // or what it would be
	Now     []schemas.Reason `json:"now,omitempty"`
}

// Report is what became of a selection.
type Report struct {
	DryRun bool    `json:"dry_run"`
	Items  []*Item `json:"items"` // in the order of acceptance
}

// Count is how many of the items have one of the fates.
func (r *Report) Count(fates ...string) (n int) {
	for _, it := range r.Items {
		if slices.Contains(fates, it.Fate) {
			n++
		}
	}
	return n
}

// tooMany says that a selection has more items than the limit.
func tooMany(limit int) error {
	return fmt.Errorf("more than %d items are selected, and nothing was done: narrow the selection, or allow more with --limit", limit)
}

// chunkItems is how many items are one transaction. Each may have a megabyte.
const chunkItems = 200

// candidate is a selected item on its way.
type candidate struct {
	item *Item
	rec  *kgo.Record // nil: it stays where it is
	// Of a reference or fact: its own id, and the version that the dead letter would have had.
	own     clickhouse.OwnID
	version int64
}

// leave lets an item alone.
func (c *candidate) leave(fate, code, message string) {
	c.rec, c.item.Fate, c.item.Now = nil, fate, []schemas.Reason{{Code: code, Message: message}}
}

// replayer is one run.
type replayer struct {
	Deps
	Options
	report     *Report
	waiter     offsets.Waiter
	rehearsals map[string]*processors.Rehearsal // by processor
	changes    *schemas.Decoder[schemas.Ownership]
	producer   *kgo.Client // nil in a dry run
	partitions map[string]int32
	times      map[timeAt][]int64
	before     map[string][]int64 // ends of the result topics when nothing was published yet
	published  []*candidate
	done       int // items, for the progress
	total      int
}

// timeAt is a moment in a topic.
type timeAt struct {
	topic string
	milli int64
}

// Run replays, or rehearses it. After an error what was published before stays published; another run goes on with the rest.
func Run(ctx context.Context, deps Deps, opts Options) (*Report, error) {
	r := &replayer{
		Deps: deps, Options: opts, report: &Report{DryRun: opts.DryRun, Items: []*Item{}},
		rehearsals: map[string]*processors.Rehearsal{}, partitions: map[string]int32{}, times: map[timeAt][]int64{},
		changes: schemas.NewDecoder[schemas.Ownership](deps.Registry, schemas.OwnershipSchema),
	}
	r.waiter = offsets.Waiter{Admin: deps.Admin, Judges: deps.Judges, Stuck: opts.Stuck, Progress: deps.Progress}
	defer func() {
		for _, rehearsal := range r.rehearsals {
			rehearsal.Close()
		}
		if r.producer != nil {
			r.producer.Close()
		}
	}()
	if !opts.DryRun {
		if err := r.claim(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	work := r.replayItems
	if opts.DeadLetters {
		work = r.replayDead
	}
	if err := work(ctx); err != nil {
		if n := len(r.published); n > 0 {
			err = fmt.Errorf("%d items were published before, and are judged; run it again for the others: %w", n, err)
		}
		return nil, err
	}
	if opts.Wait && len(r.published) > 0 {
		if err := r.await(ctx); err != nil {
			return nil, fmt.Errorf("%d items were published, but it is not known what became of them: %w", len(r.published), err)
		}
	}
	return r.report, nil
}

// settle waits until all that lies in the item topics is judged, and until the sink has all outcomes, so that what is selected is true.
func (r *replayer) settle(ctx context.Context) error {
	items := schemas.TopicNames(schemas.RoleItem)
	for range 2 { // items, and what was forwarded of them
		ends, err := r.waiter.AwaitJudges(ctx, items...)
		if err != nil {
			return err
		}
		for topic, partitions := range ends {
			r.partitions[topic] = int32(len(partitions))
		}
	}
	return r.awaitSink(ctx)
}

// awaitSink waits until ClickHouse has all that lies in Kafka for it.
func (r *replayer) awaitSink(ctx context.Context) error {
	ends, err := offsets.List(ctx, r.Admin.ListEndOffsets, clickhouse.Topics()...)
	if err != nil {
		return err
	}
	for topic, partitions := range ends {
		r.partitions[topic] = int32(len(partitions))
	}
	if r.before == nil {
		r.before = ends
	}
	if err := r.waiter.Await(ctx, schemas.GroupSink, ends); err != nil {
		return err
	}
	return r.Conn.SyncReplicas(ctx)
}

// replayItems works through the selected unprocessed items.
func (r *replayer) replayItems(ctx context.Context) error {
	r.Progress("selecting")
	open, err := r.Conn.OpenItems(ctx, r.Selection, r.Limit+1)
	if err != nil {
		return err
	}
	if len(open) > r.Limit {
		return tooMany(r.Limit)
	}
	r.total = len(open)
	for chunk := range slices.Chunk(open, chunkItems) {
		outcomes, err := r.Conn.OpenOutcomes(ctx, chunk)
		if err != nil {
			return err
		}
		var all []*candidate
		for _, it := range chunk {
			o := outcomes[it.ID]
			if o == nil || o.Attempt != it.Attempt {
				return fmt.Errorf("ClickHouse no longer has attempt %d at item %s, which it selected: try again", it.Attempt, it.ID)
			}
			c, err := r.candidate(ctx, o)
			if err != nil {
				return err
			}
			if r.Key == "" || c.item.Key == r.Key {
				all = append(all, c)
			}
		}
		if err := r.put(ctx, all); err != nil {
			return err
		}
		r.done += len(chunk)
	}
	return nil
}

// candidate makes the replay of an unprocessed item.
func (r *replayer) candidate(ctx context.Context, o *clickhouse.OpenOutcome) (*candidate, error) {
	c := &candidate{item: &Item{
		Kind: o.Kind, Tenant: o.Tenant, ID: o.ID, Batch: o.Batch, Index: o.Index, Ref: o.Ref, Attempt: o.Attempt + 1, Was: o.Reasons,
	}}
	if o.AtDoor || o.Format != schemas.FormatAvro {
		c.leave(FateNotReplayable, schemas.CodeInvalid, "It does not fit the schema of its kind, was refused at the door and has no record that could be replayed: its sender must mend it and send it again.")
		return c, nil
	}
	env := schemas.Envelope{
		Tenant: o.Tenant, Batch: o.Batch, Index: o.Index, Reply: -1, Attempt: o.Attempt + 1, Ref: o.Ref,
		First: &schemas.First{ID: o.ID, Epoch: o.FirstEpoch, AcceptedAt: o.AcceptedAt},
	}
	if o.Batch != "" {
		env.Reply = o.Reply
	}
	c.rec = &kgo.Record{Topic: o.Kind, Value: o.Original}
	was := origin{partition: -1, offset: o.FirstOffset}
	if o.FirstAttempt == 1 {
		was.partition, was.judged = o.FirstPartition, true
	}
	return c, r.place(ctx, c, &env, was)
}

// origin is where an item lay at its first attempt.
type origin struct {
	partition int32 // -1: nobody knows
	offset    int64
	judged    bool // there, and so its outcome has that place
}

// place gives a replay its key, partition and place: where its first attempt was among the items of its key. An item without a key, or
// with defects still, has only its own attempts beside it, and keeps its offset wherever it is judged.
func (r *replayer) place(ctx context.Context, c *candidate, env *schemas.Envelope, was origin) error {
	rehearsal, err := r.rehearsal(ctx, c.rec.Topic)
	if err != nil {
		return err
	}
	c.rec.Headers = env.Headers(nil)
	key, err := rehearsal.Place(ctx, c.rec)
	var bad *schemas.BadRecordError
	switch {
	case errors.As(err, &bad):
		c.leave(FateNotReplayable, bad.Code, "Today's code cannot read it either: "+bad.Message+".")
		return nil
	case err != nil:
		return err
	}
	c.item.Key = strings.ReplaceAll(string(key), "\x00", "/")
	env.First.Offset = was.offset
	if alone := c.item.Key == "" && was.judged; !alone && c.rec.Partition != was.partition && env.First.Epoch == r.Epochs.Of(c.rec.Topic) {
		if env.First.Offset, err = r.offsetAt(ctx, c.rec.Topic, c.rec.Partition, env.First.AcceptedAt); err != nil {
			return err
		}
	}
	c.rec.Headers = env.Headers(nil)
	return nil
}

// offsetAt is the last offset of a partition before those that were accepted at a time or later; -1 where there is none.
func (r *replayer) offsetAt(ctx context.Context, topic string, partition int32, at time.Time) (int64, error) {
	key := timeAt{topic, at.UnixMilli()}
	if r.times[key] == nil {
		found, err := offsets.List(ctx, func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return r.Admin.ListOffsetsAfterMilli(ctx, key.milli, topics...)
		}, topic)
		if err != nil {
			return 0, err
		}
		r.times[key] = found[topic]
	}
	return r.times[key][partition] - 1, nil
}

// rehearsal is that of the processor that judges a topic.
func (r *replayer) rehearsal(ctx context.Context, topic string) (*processors.Rehearsal, error) {
	for _, name := range processors.Names() {
		if !slices.Contains(processors.Topics(name), topic) {
			continue
		}
		if r.rehearsals[name] == nil {
			rehearsal, err := r.Rehearse(ctx, name)
			if err != nil {
				return nil, err
			}
			r.rehearsals[name] = rehearsal
		}
		return r.rehearsals[name], nil
	}
	return nil, fmt.Errorf("no processor judges %s", topic)
}

// put publishes candidates, or rehearses them.
func (r *replayer) put(ctx context.Context, all []*candidate) error {
	for _, c := range all {
		r.report.Items = append(r.report.Items, c.item)
	}
	if err := r.leaveSuperseded(ctx, all); err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(c *candidate) bool { return c.rec == nil })
	if len(all) == 0 {
		return nil
	}
	if !r.DryRun {
		r.Progress(fmt.Sprintf("publishing: %d of %d", r.done, r.total))
		return r.publish(ctx, all)
	}
	r.Progress(fmt.Sprintf("rehearsing: %d of %d", r.done, r.total))
	return r.rehearse(ctx, all)
}

// leaveSuperseded lets those changes of ownership alone that a later one has overtaken. Of records that are gone ClickHouse alone knows.
func (r *replayer) leaveSuperseded(ctx context.Context, all []*candidate) error {
	of := map[*candidate]clickhouse.OwnershipKey{}
	var keys []clickhouse.OwnershipKey
	for _, c := range all {
		if c.rec == nil || c.rec.Topic != schemas.KindOwnership || c.item.Key == "" {
			continue
		}
		parts := strings.SplitN(string(c.rec.Key), "\x00", 3)
		of[c] = clickhouse.OwnershipKey{Tenant: parts[0], User: parts[1], SKU: parts[2]}
		keys = append(keys, of[c])
	}
	if len(keys) == 0 {
		return nil
	}
	changes, err := r.Conn.OwnershipChanges(ctx, keys)
	if err != nil {
		return err
	}
	for c, key := range of {
		env, err := schemas.ParseEnvelope(c.rec.Headers)
		if err != nil {
			return err
		}
		var it schemas.Ownership
		if err := r.changes.Decode(c.rec.Value, &it); err != nil {
			return err
		}
		last := changes[key].Set
		if upserts.Sets(&it) {
			last = changes[key].Last
		}
		if last > env.First.Version() {
			c.leave(FateSuperseded, schemas.CodeSuperseded, "A later change of what this user has of the product was processed; this one would undo it.")
		}
	}
	return nil
}

// rehearse asks what would become of candidates. Each kind's are judged in their order.
func (r *replayer) rehearse(ctx context.Context, all []*candidate) error {
	byProcessor := map[*processors.Rehearsal][]*candidate{}
	for _, c := range all {
		if c.own.ID != "" {
			c.item.Fate = FateProcessed // it can be read, and is the latest
			continue
		}
		rehearsal, err := r.rehearsal(ctx, c.rec.Topic)
		if err != nil {
			return err
		}
		byProcessor[rehearsal] = append(byProcessor[rehearsal], c)
	}
	for rehearsal, theirs := range byProcessor {
		records := make([]*kgo.Record, len(theirs))
		for i, c := range theirs {
			records[i] = c.rec
		}
		fates, err := rehearsal.Judge(ctx, records)
		if err != nil {
			return err
		}
		for i, c := range theirs {
			switch f := fates[i]; {
			case f.Late: // it has an outcome that ClickHouse had not when it was asked
				c.leave(FateNotReplayable, schemas.CodeInternalError, "Another replay of it was judged meanwhile.")
			case f.Processed:
				c.item.Fate = FateProcessed
			case f.Dead:
				c.item.Fate, c.item.Now = FateDeadLetter, f.Reasons
			default:
				c.item.Fate, c.item.Now = FateUnprocessed, f.Reasons
			}
		}
	}
	return nil
}
