package adopt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/cmd/counterfoil/internal/offsets"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// Deps are what looking and taking over work with.
type Deps struct {
	Admin    *kadm.Client
	Conn     *clickhouse.Conn
	Registry *schemas.Registry
	Groups   map[string][]string // consumer groups with the topics that each reads
	// Commits reads a group's committed offsets; none where there is no such group.
	Commits func(ctx context.Context, group string) (kadm.OffsetResponses, error)
	// Read reads a topic's committed records, each partition p from from[p] to below to[p], and calls each for every one until it returns false.
	Read func(ctx context.Context, topic string, from, to []int64, each func(*kgo.Record) (bool, error)) error
	// Progress is told what is being done, several times a second.
	Progress func(doing string)
}

// States of a topic that is not the one that ClickHouse knows.
const (
	StateRecreated = "created anew"          // it has another id
	StateMissing   = "gone"                  // Kafka has none of that name
	StateUnknown   = "unknown to ClickHouse" // which has lost its data
)

// gap is how far above the highest number known the numbers of a new epoch begin: those of what never reached ClickHouse are not given out
// again. Nobody promises that numbers have no gaps.
const gap = 1_000_000

// Plan is what was found, and what taking it over does.
type Plan struct {
	Topics  []Topic  `json:"topics"`  // that become a new epoch, or are recorded again
	Offsets []Offset `json:"offsets"` // that are committed
	Lost    []Loss   `json:"lost"`    // offsets that are gone and are taken over with [Options].Offsets only
	Blocked []string `json:"blocked"` // why it cannot be done now; each says what to do
	Members []string `json:"members"` // groups that have members, as Blocked says
	// Pending are the items of batches in ClickHouse that have no outcome there; nil: it did not say in time, or no item or outcome is lost.
	Pending *Pending `json:"pending,omitempty"`
	Done    bool     `json:"done"`
}

// Topic is a topic that is not the one that ClickHouse knows.
type Topic struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Was   string `json:"was"` // Kafka's id of it that ClickHouse knows; empty: none
	ID    string `json:"id"`  // Kafka's id of it now; empty: none
	From  int32  `json:"from_epoch"`
	Epoch int32  `json:"epoch"` // that it gets
	// Base is what numbers by positions in it begin after, of batches, customer_events and referrals; otherwise 0.
	Base  int64    `json:"base"`
	Means []string `json:"means"` // in sentences
}

// Offset is where a group begins in a topic.
type Offset struct {
	Group      string      `json:"group"`
	Topic      string      `json:"topic"`
	Why        string      `json:"why"`
	FromStart  bool        `json:"from_start"` // in every partition, whatever was handled
	Partitions []Partition `json:"partitions"`

	released bool          // for the sink: nobody can be inserting
	epoch    schemas.Epoch // of the topic
}

// Partition is one of an [Offset].
type Partition struct {
	Partition int32  `json:"partition"`
	Committed *int64 `json:"committed"` // now; null: nothing
	Found     *int64 `json:"found"`     // the highest offset that shows that it was handled; null: none does, or none was looked for
	To        int64  `json:"to"`        // that is committed
	End       int64  `json:"end"`       // of the log: what lies between is read, at most so many records
	Skipped   int64  `json:"skipped"`   // offsets that were never read and that the log no longer has
}

// Loss is a group whose commits of a topic are gone.
type Loss struct {
	Group      string  `json:"group"`
	Topic      string  `json:"topic"`
	Partitions []int32 `json:"partitions"`
}

// Pending counts items without an outcome.
type Pending struct {
	Items   uint64 `json:"items"`
	Batches uint64 `json:"batches"`
}

// Nothing reports that Kafka and ClickHouse agree.
func (p *Plan) Nothing() bool {
	return len(p.Topics) == 0 && len(p.Offsets) == 0 && len(p.Lost) == 0 && len(p.Blocked) == 0
}

// Options say what to take over besides topics.
type Options struct {
	Offsets bool // commits that are gone
	// Window is how many offsets of each partition of requests are looked at first, from the end backwards; 0: 65,536.
	Window int64
}

// NeededError refuses to go on where a person must decide with counterfoil adopt. The text says so.
type NeededError struct{ Problem error }

func (e *NeededError) Error() string { return e.Problem.Error() }
func (e *NeededError) Unwrap() error { return e.Problem }

// finder is one look at both.
type finder struct {
	Deps
	opts    Options
	plan    *Plan
	known   map[string]clickhouse.TopicEpoch
	topics  kadm.TopicDetails // those of ours that Kafka has
	commits map[string]kadm.OffsetResponses
	starts  map[string][]int64
	ends    map[string][]int64
	epochs  schemas.Epochs // as they will be
	renewed map[string]bool
	seen    *evidence
}

// Find looks at both and changes nothing.
func Find(ctx context.Context, deps Deps, opts Options) (*Plan, error) {
	if opts.Window == 0 {
		opts.Window = 1 << 16
	}
	f := &finder{
		Deps: deps, opts: opts, plan: &Plan{Topics: []Topic{}, Offsets: []Offset{}, Lost: []Loss{}, Blocked: []string{}},
		commits: map[string]kadm.OffsetResponses{}, epochs: schemas.Epochs{}, renewed: map[string]bool{},
	}
	for _, step := range []func(context.Context) error{f.look, f.findTopics, f.findOffsets, f.findMembers} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return f.plan, nil
}

// CheckHistory returns a *[NeededError] where Kafka shows work of roles on topics that ClickHouse does not know: only these write to result
// topics, changelogs and batches, and only they move commits beyond a log's start. To note these topics as new would let the sink go on
// behind what the tables lack.
func CheckHistory(ctx context.Context, deps Deps) error {
	// Twice, because another migrate may have noted them between two questions, and roles have been started.
	for try := 0; ; try++ {
		f := &finder{Deps: deps, commits: map[string]kadm.OffsetResponses{}}
		if err := f.look(ctx); err != nil || !f.history() {
			return err
		}
		if try == 1 {
			return &NeededError{Problem: errors.New("ClickHouse does not know topics on which roles were at work: it lost its data, or is another one. Bring the data back; " +
				"or let counterfoil adopt say what was lost, and fill the tables again from what Kafka has")}
		}
	}
}

// look reads what both have.
func (f *finder) look(ctx context.Context) error {
	f.Progress("comparing Kafka with ClickHouse")
	var err error
	if f.known, err = f.Conn.TopicEpochs(ctx); err != nil {
		return err
	}
	var names []string
	for _, t := range schemas.Topics() {
		names = append(names, t.Name)
	}
	details, err := f.Admin.ListTopics(ctx, names...)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	f.topics = kadm.TopicDetails{}
	var have []string
	for _, name := range names {
		d, ok := details[name]
		switch {
		case !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition):
		case d.Err != nil:
			return fmt.Errorf("topic %s: %w", name, d.Err)
		default:
			f.topics[name] = d
			have = append(have, name)
		}
	}
	if f.starts, err = offsets.List(ctx, f.Admin.ListStartOffsets, have...); err != nil {
		return err
	}
	if f.ends, err = offsets.List(ctx, f.Admin.ListEndOffsets, have...); err != nil {
		return err
	}
	for group := range f.Groups {
		if f.commits[group], err = f.Commits(ctx, group); err != nil {
			return err
		}
	}
	return nil
}

func (f *finder) committed(group, topic string, partition int32) *int64 {
	if o, ok := f.commits[group].Lookup(topic, partition); ok && o.Err == nil && o.At >= 0 {
		return &o.At
	}
	return nil
}

// empty: ClickHouse was never migrated, or has lost everything, its tables included.
func (f *finder) empty() bool { return len(f.known) == 0 }

func (f *finder) history() bool {
	for _, t := range schemas.Topics() {
		if _, ok := f.known[t.Name]; ok {
			continue
		}
		for p, end := range f.ends[t.Name] {
			switch t.Role {
			case schemas.RoleBatches, schemas.RoleProcessed, schemas.RoleUnprocessed, schemas.RoleState, schemas.RoleAnswers, schemas.RoleDeadLetters:
				if end > 0 {
					return true
				}
			}
			for group := range f.Groups {
				if at := f.committed(group, t.Name, int32(p)); at != nil && *at > f.starts[t.Name][p] {
					return true
				}
			}
		}
	}
	return false
}

// findTopics compares ids, and gives each topic its epoch.
func (f *finder) findTopics(ctx context.Context) error {
	lostData := f.history()
	for _, t := range schemas.Topics() {
		k, known := f.known[t.Name]
		d, exists := f.topics[t.Name]
		f.epochs[t.Name] = k.Epoch
		topic := Topic{Name: t.Name, Was: k.ID, From: k.Number, Epoch: k.Number + 1}
		if exists {
			topic.ID = d.ID.String()
		}
		switch {
		case known && !exists:
			topic.State = StateMissing
		case known && topic.Was != topic.ID:
			topic.State = StateRecreated
		case !known && exists && lostData:
			topic.State, topic.Epoch = StateUnknown, 0
		default:
			continue
		}
		f.renewed[t.Name] = true
		f.epochs[t.Name] = schemas.Epoch{Number: topic.Epoch}
		f.plan.Topics = append(f.plan.Topics, topic)
	}
	f.checkPartitions()
	f.seen = newEvidence(f)
	for i := range f.plan.Topics {
		t := &f.plan.Topics[i]
		var err error
		if t.State == StateUnknown {
			err = f.seen.recover(ctx, t)
		} else {
			t.Base, err = f.base(ctx, t.Name)
		}
		if err != nil {
			return err
		}
		f.epochs[t.Name] = schemas.Epoch{Number: t.Epoch, Base: t.Base}
	}
	for i := range f.plan.Topics {
		if err := f.explain(ctx, &f.plan.Topics[i]); err != nil {
			return err
		}
	}
	return f.countPending(ctx)
}

// checkPartitions finds topics that were created by hand with another number of partitions than they must have.
func (f *finder) checkPartitions() {
	open := 0
	for _, t := range schemas.Topics() {
		want, have := t.Partitions, len(f.ends[t.Name])
		switch {
		case have == 0:
			continue
		case want == 0 && open == 0:
			open = have
		case want == 0:
			want = open
		}
		if want != 0 && have != want {
			f.block("topic %s has %d partitions, and others that must have as many have %d: delete the one that is wrong, and it is created as it must be", t.Name, have, want)
		}
	}
}

func (f *finder) block(format string, args ...any) {
	f.plan.Blocked = append(f.plan.Blocked, fmt.Sprintf(format, args...))
}

// base is what numbers by positions in the next life of a topic begin after; 0 where there are none.
func (f *finder) base(ctx context.Context, topic string) (int64, error) {
	highest := f.known[topic].Base
	switch topic {
	case schemas.Batches:
	case schemas.KindCustomerEvents, schemas.KindReferrals:
		// Outcomes that ClickHouse does not have yet may still be on their topic.
		if err := f.seen.results(ctx, topic); err != nil {
			return 0, err
		}
		highest = max(highest, f.seen.numbers[topic])
	default:
		return 0, nil
	}
	inTable, err := f.Conn.HighestNumber(ctx, topic)
	return max(highest, inTable) + gap, err
}

// findOffsets finds the groups that must begin anew, and those whose commits are gone.
func (f *finder) findOffsets(ctx context.Context) error {
	began := map[clickhouse.GroupStart]bool{}
	starts, err := f.Conn.GroupStarts(ctx)
	if err != nil {
		return err
	}
	for _, s := range starts {
		began[s] = true
	}
	for _, group := range sorted(f.Groups) {
		for _, topic := range f.Groups[group] {
			i := slices.IndexFunc(f.plan.Topics, func(t Topic) bool { return t.Name == topic })
			switch {
			case i >= 0 && f.plan.Topics[i].State != StateUnknown:
				f.begin(group, topic, "the topic begins a new life", true)
			case i >= 0 && group == schemas.GroupSink:
				f.begin(group, topic, "ClickHouse is filled again", false)
			case i >= 0 || began[clickhouse.GroupStart{Topic: topic, Epoch: f.epochs.Of(topic), Group: group}]:
				if err := f.findLost(ctx, group, topic); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// begin lets a group begin at the start of a topic, which may still have to be created.
func (f *finder) begin(group, topic, why string, released bool) {
	o := Offset{Group: group, Topic: topic, Why: why, epoch: f.epochs[topic], released: released, FromStart: true, Partitions: []Partition{}}
	for p, start := range f.starts[topic] {
		o.Partitions = append(o.Partitions, Partition{
			Partition: int32(p), Committed: f.committed(group, topic, int32(p)), To: start, End: f.ends[topic][p],
		})
	}
	f.plan.Offsets = append(f.plan.Offsets, o)
}

// findLost finds the partitions of a topic whose commits are gone, or lie outside the log.
func (f *finder) findLost(ctx context.Context, group, topic string) error {
	var lost []int32
	for p, start := range f.starts[topic] {
		at, end := f.committed(group, topic, int32(p)), f.ends[topic][p]
		switch {
		case at == nil || *at < start:
			lost = append(lost, int32(p))
		case *at > end:
			f.blockCut(topic, int32(p), end, *at-1)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	if !f.opts.Offsets {
		f.plan.Lost = append(f.plan.Lost, Loss{group, topic, lost})
		return nil
	}
	o := Offset{Group: group, Topic: topic, Why: "the commit is gone", epoch: f.epochs[topic], FromStart: group == schemas.GroupSink, Partitions: []Partition{}}
	var found map[int32]int64
	var err error
	switch group {
	case schemas.GroupSink:
		found, err = f.inTables(ctx, topic)
	case schemas.GroupRequests:
		found, err = f.seen.passed(ctx, lost)
	default:
		found, err = f.seen.judged(ctx, topic, lost)
	}
	if err != nil {
		return err
	}
	for _, p := range lost {
		start, end := f.starts[topic][p], f.ends[topic][p]
		at := Partition{Partition: p, Committed: f.committed(group, topic, p), To: start, End: end}
		if last, ok := found[p]; ok {
			at.Found = &last
			if last >= end {
				f.blockCut(topic, p, end, last)
			}
			if group != schemas.GroupSink {
				at.To = max(start, last+1)
				at.Skipped = max(0, start-last-1)
			}
		}
		if at.Committed != nil {
			o.Why = "the log no longer has what was to be read next"
			at.To = max(at.To, *at.Committed, start)
			at.Skipped = at.To - *at.Committed
		}
		o.Partitions = append(o.Partitions, at)
	}
	f.plan.Offsets = append(f.plan.Offsets, o)
	return nil
}

// blockCut says that a log ends below a position that was already used: what comes next would take it a second time.
func (f *finder) blockCut(topic string, partition int32, end, used int64) {
	f.block("topic %s partition %d ends at offset %d, and offset %d of it was already in use: the log was cut. Bring the lost part back; or delete the topic, "+
		"and it is taken over as a new one", topic, partition, end, used)
}

// inTables is how far the log tables have a topic, for people: the sink asks them itself.
func (f *finder) inTables(ctx context.Context, topic string) (map[int32]int64, error) {
	table := tableOf(topic)
	if table == "" || f.empty() {
		return nil, nil
	}
	return f.Conn.LastOffsets(ctx, table, topic, f.epochs.Of(topic))
}

// tableOf is the log table that has every record of a topic that can be read; empty: none.
func tableOf(topic string) string {
	table := ""
	for _, l := range clickhouse.LogTables() {
		if slices.Contains(l.Topics, topic) && (table == "" || l.Name != schemas.KindSales) { // which of the unprocessed has only those without a call
			table = l.Name
		}
	}
	return table
}

// findMembers refuses to take anything over beside roles at work: they would go on with the epochs and the state that they have.
func (f *finder) findMembers(ctx context.Context) error {
	groups := sorted(f.Groups)
	if len(f.plan.Topics) == 0 { // the others go on as they are
		groups = slices.DeleteFunc(groups, func(g string) bool {
			return !slices.ContainsFunc(f.plan.Offsets, func(o Offset) bool { return o.Group == g })
		})
	}
	if len(groups) == 0 {
		return nil
	}
	members, err := f.members(ctx, groups)
	if err != nil {
		return err
	}
	f.plan.Members = sorted(members)
	for _, g := range f.plan.Members {
		f.block("group %s has members (%s): stop every role, ingest as well, and try again; Kafka forgets one that was stopped after its session timeout", g, strings.Join(members[g], ", "))
	}
	return nil
}

// Await waits until the groups have no members, or for so long, and returns those that still have some. Kafka keeps a static member that was
// stopped until its session times out.
func Await(ctx context.Context, deps Deps, groups []string, most time.Duration) ([]string, error) {
	for deadline := time.Now().Add(most); ; {
		members, err := deps.members(ctx, groups)
		if err != nil || len(members) == 0 || time.Now().After(deadline) {
			return sorted(members), err
		}
		deps.Progress("waiting for Kafka to forget the members of " + strings.Join(sorted(members), ", "))
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// members are the members of those groups that have any, by instance or client id and host.
func (d *Deps) members(ctx context.Context, groups []string) (map[string][]string, error) {
	described, err := d.Admin.DescribeGroups(ctx, groups...)
	if err != nil {
		return nil, fmt.Errorf("look for members of the groups: %w", err)
	}
	all := map[string][]string{}
	for _, g := range groups {
		group := described[g]
		if group.Err != nil && !errors.Is(group.Err, kerr.GroupIDNotFound) {
			return nil, fmt.Errorf("look for members of group %s: %w", g, group.Err)
		}
		for _, m := range group.Members {
			name := m.ClientID
			if m.InstanceID != nil {
				name = *m.InstanceID
			}
			all[g] = append(all[g], strings.TrimSpace(name+" "+m.ClientHost))
		}
		slices.Sort(all[g])
	}
	return all, nil
}

// Do does what the plan says. Every topic of it must be there by now. What the plan is blocked by is an error. say is told each step.
func (p *Plan) Do(ctx context.Context, deps Deps, say func(format string, args ...any)) error {
	if len(p.Blocked) > 0 {
		return fmt.Errorf("nothing was changed:\n%s", strings.Join(p.Blocked, "\n"))
	}
	commits := map[string]kadm.Offsets{}
	for _, o := range p.Offsets {
		of := commits[o.Group]
		if of == nil {
			of = kadm.Offsets{}
			commits[o.Group] = of
		}
		for _, at := range o.Partitions {
			of.Add(kadm.Offset{Topic: o.Topic, Partition: at.Partition, At: at.To, LeaderEpoch: -1, Metadata: clickhouse.CommitMetadata(o.released, o.epoch)})
		}
	}
	for _, group := range sorted(commits) {
		if len(commits[group]) == 0 {
			continue
		}
		say("commit where group %s goes on in %d topics", group, len(commits[group]))
		done, err := deps.Admin.CommitOffsets(ctx, group, commits[group])
		if err == nil {
			err = done.Error()
		}
		if errors.Is(err, kerr.UnknownMemberID) {
			return fmt.Errorf("group %s has running members, so that Kafka takes no offsets from here: stop them and try again", group)
		}
		if err != nil {
			return fmt.Errorf("commit the offsets of group %s: %w", group, err)
		}
	}
	for i := range p.Topics {
		t := &p.Topics[i]
		if t.ID == "" {
			return fmt.Errorf("topic %s was not created", t.Name)
		}
		for _, group := range sorted(deps.Groups) {
			if slices.Contains(deps.Groups[group], t.Name) {
				if err := deps.Conn.RecordGroupStart(ctx, clickhouse.GroupStart{Topic: t.Name, Epoch: t.Epoch, Group: group}); err != nil {
					return err
				}
			}
		}
	}
	for i := range p.Topics {
		t := &p.Topics[i]
		say("record topic %s (id %s) as epoch %d", t.Name, t.ID, t.Epoch)
		if err := deps.Conn.RecordTopicEpoch(ctx, t.Name, clickhouse.TopicEpoch{ID: t.ID, Epoch: schemas.Epoch{Number: t.Epoch, Base: t.Base}}); err != nil {
			return err
		}
	}
	p.Done = true
	return nil
}
