package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// Deps are what the sink works with.
type Deps struct {
	Kafka    []kgo.Opt // seeds, TLS, SASL
	Conn     *Conn
	Registry Writers
	Epochs   schemas.Epochs
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	// Check refuses a record of a reference or fact topic that keeps its schema and no rule beyond it, as [fill.add] refuses others.
	Check func(topic string, value []byte) error
}

// Sink moves records of all topics that have a table from Kafka into ClickHouse. See the package comment for the protocol.
//
// Its goroutines: Run polls, decodes and hands blocks over; each table has a writer (insert.go); the keeper commits and so renews the
// lease (lease.go); each assignment has a take-over (takeover.go). Kafka's client calls the rebalance callbacks, never while Run decodes.
type Sink struct {
	cfg    SinkConfig
	deps   Deps
	log    *slog.Logger
	conn   *Conn
	client *kgo.Client
	admin  *kadm.Client
	met    *metrics
	topics map[string]topicPlan
	dests  []*dest
	skew   time.Duration // how far the clocks of ClickHouse's nodes may lie apart
	ctx    context.Context
	stop   context.CancelCauseFunc // with the error that ends Run
	work   sync.WaitGroup          // writers, keeper, take-overs

	// commitMu makes the look at ClickHouse's clock, the commit behind it and the new lease one step. It is never waited for under mu.
	commitMu semaphore
	asked    time.Time     // ClickHouse's time when it was asked last; under commitMu
	wake     chan struct{} // asks the keeper for a commit

	// decoding is held while records move into the block, and by the callbacks of the client, which end parts and hand the block over.
	// It is taken before mu.
	decoding sync.Mutex

	mu       sync.Mutex
	changed  *sync.Cond // on mu: a queue, the lease or a partition changed
	parts    map[topicPartition]*part
	blocks   [2]*block // being filled by Run: written under decoding, replaced under mu
	lease    lease
	joined   bool // the group has answered once
	draining bool

	// answerWait is how much longer than its lease an insert may take: a block that was not there by write_by is refused, one that was has
	// this long to become a part. Tests set it.
	answerWait time.Duration
	// clock asks ClickHouse for its time; tests set it.
	clock func(context.Context) (time.Time, error)
	// hook lets tests stand in the middle of the protocol; nil otherwise.
	hook func(ctx context.Context, at, table string) error
}

// semaphore is a mutex that can be waited for with a limit.
type semaphore chan struct{}

func (m semaphore) lock(ctx context.Context) error {
	select {
	case m <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m semaphore) unlock() { <-m }

type topicPartition struct {
	topic     string
	partition int32
}

// topicPlan is where the records of a topic go.
type topicPlan struct {
	epoch int32
	block int       // in Sink.blocks
	dests [][]*dest // by shard; the dead letters are last
}

// Places in Sink.blocks. Sales wait for the calls that came before them, so that calls have a block of their own, which waits for little: the
// others' inserts are as few as before.
const (
	blockCalls = iota
	blockOthers
)

// callsInterval is the longest that a call waits for its insert to begin, where that is not set to be less.
const callsInterval = 200 * time.Millisecond

// part is a partition that this member owns, from its assignment to its end. A partition that comes back is another part.
type part struct {
	topicPartition
	epoch  int32
	block  int // in Sink.blocks
	dests  []*dest
	member string // id of the member that it was assigned to

	// Under Sink.decoding.
	next    int64         // offset behind the last record read
	waiting []*kgo.Record // from the first one whose schema is not known yet
	retryAt time.Time     // of waiting

	// Under Sink.mu.
	active    bool            // taken over: read, inserted and committed
	gone      bool            // no longer ours: its rows are dropped, it is not committed
	has       map[*dest]int64 // offset behind the last row that the table had at take-over; rows below it are skipped
	done      map[*dest]int64 // offset below which the table has everything
	committed int64
	paused    bool // fetching is paused because a table refuses its rows
	end       int64
	stamp     time.Time // of the last record read
}

// flushed is the offset below which all tables of the partition have everything. Under Sink.mu.
func (p *part) flushed() int64 {
	low := p.done[p.dests[0]]
	for _, d := range p.dests[1:] {
		low = min(low, p.done[d])
	}
	return low
}

// block is what Run collects between two flushes: rows by table, and how far it read each partition meanwhile.
type block struct {
	wait  time.Duration // the longest that its rows wait
	fills map[*dest]*fill
	next  map[*part]int64
	rows  int
	bytes int
	since time.Time // of its first record
}

func newBlock(wait time.Duration) *block {
	return &block{wait: wait, fills: map[*dest]*fill{}, next: map[*part]int64{}}
}

// newBlocks are empty blocks.
func (c *SinkConfig) newBlocks() [2]*block {
	return [2]*block{blockCalls: newBlock(min(c.FlushInterval, callsInterval)), blockOthers: newBlock(c.FlushInterval)}
}

// New checks the configuration and that the tables are there.
func New(cfg SinkConfig, deps Deps) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.NumberBase = deps.Epochs[schemas.Batches].Base
	s := &Sink{
		cfg: cfg, deps: deps, log: deps.Log, conn: deps.Conn, met: newMetrics(deps.Metrics),
		topics: map[string]topicPlan{}, parts: map[topicPartition]*part{}, blocks: cfg.newBlocks(), wake: make(chan struct{}, 1), commitMu: make(semaphore, 1),
		answerWait: 5 * time.Second,
	}
	s.clock = deps.Conn.now
	if deps.Conn.cfg.Cluster != "" {
		s.skew = time.Second
	}
	s.changed = sync.NewCond(&s.mu)
	byName := map[string][]*dest{} // table → dest by shard
	destsOf := func(spec *tableSpec) ([]*dest, error) {
		if byName[spec.name] == nil {
			s.met.table(spec.name)
			for shard := range deps.Conn.shards {
				d, err := newDest(s, spec, shard)
				if err != nil {
					return nil, err
				}
				byName[spec.name] = append(byName[spec.name], d)
				s.dests = append(s.dests, d)
			}
		}
		return byName[spec.name], nil
	}
	for _, t := range schemas.Topics() {
		specs := tablesOf(t)
		if specs == nil {
			continue
		}
		// Whatever cannot be read goes to the dead letters, from any topic.
		if !slices.Contains(specs, deadLettersTable) {
			specs = append(specs, deadLettersTable)
		}
		plan := topicPlan{epoch: deps.Epochs.Of(t.Name), block: blockOthers, dests: make([][]*dest, len(deps.Conn.shards))}
		if t.Name == schemas.Calls {
			plan.block = blockCalls
		}
		for _, spec := range specs {
			dests, err := destsOf(spec)
			if err != nil {
				return nil, err
			}
			for shard, d := range dests {
				if spec.spread {
					plan.dests[shard] = append(plan.dests[shard], dests...)
				} else {
					plan.dests[shard] = append(plan.dests[shard], d)
				}
			}
		}
		s.topics[t.Name] = plan
	}
	return s, nil
}

// Run works until ctx is done; then it inserts what it has read, gives its partitions up in good order and returns nil. Any other return
// is an error that a restart or a person must mend.
func (s *Sink) Run(ctx context.Context) error {
	if err := s.conn.Migrated(ctx); err != nil {
		return err
	}
	for {
		err := s.session(ctx)
		if !errors.Is(err, errExpelled) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		s.met.expulsions.Inc()
		s.log.Warn("sink was expelled from its group while it was held up; it drops what it has read and begins anew")
		s.reset()
	}
}

// errExpelled ends a session whose member was expelled without that a callback said so: when a JoinGroup finds the member unknown, Kafka's
// client joins again under a new id and goes on as if nothing had been, revoking in good order what others have long taken over, and keeping
// what it gets back. With the new id and generation Kafka would take its commits, of partitions that are not its own. So each part remembers
// the member id that it was assigned to, a commit under another is not sent, and the session starts afresh.
var errExpelled = errors.New("expelled from the group and joined again under another member id")

// reset forgets everything of the last session but empty blocks.
func (s *Sink) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tp := range s.parts {
		s.met.forget(tp)
	}
	s.parts, s.blocks, s.lease, s.joined = map[topicPartition]*part{}, s.cfg.newBlocks(), lease{}, false
	for _, d := range s.dests {
		d.queue, d.refused, d.cancel = nil, nil, nil
	}
}

// session works as one member of the group.
func (s *Sink) session(ctx context.Context) error {
	// The work outlives ctx by the drain.
	s.ctx, s.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	defer s.stop(nil)
	if err := s.connect(); err != nil {
		return err
	}
	for _, end := range []context.Context{ctx, s.ctx} {
		defer context.AfterFunc(end, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.changed.Broadcast()
		})()
	}
	for _, d := range s.dests {
		s.work.Go(d.run)
	}
	s.work.Go(s.keep)

	err := s.poll(ctx)
	if err == nil {
		s.drain()
	}
	s.stop(err)
	s.mu.Lock()
	for _, p := range s.parts {
		p.gone = true
	}
	s.mu.Unlock()
	s.work.Wait()
	// A Kafka that does not answer must not hold up the way out; the group forgets this member after the session timeout. A session that
	// is followed by another waits for the last callback of its client.
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.client.CloseAllowingRebalance()
	}()
	var late <-chan time.Time
	if !errors.Is(err, errExpelled) {
		late = time.After(leaveWait)
	}
	select {
	case <-closed:
	case <-late:
		s.log.Warn("sink could not leave its group in good order")
	}
	return err
}

// leaveWait is how long the sink waits for the group's answer when it leaves.
const leaveWait = 2 * time.Second

// Ready is nil when what is committed now would reach ClickHouse without delay. Anybody may read the error: it has no text of a server.
func (s *Sink) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.joined {
		return errors.New("sink: the consumer group has not assigned partitions yet")
	}
	for _, d := range s.dests {
		if d.refused != nil {
			return fmt.Errorf("sink: table %s refuses rows; the log says why", d.spec.name)
		}
	}
	taking := 0
	for _, p := range s.parts {
		if !p.active {
			taking++
		}
	}
	if taking > 0 {
		return fmt.Errorf("sink: taking over %d partitions", taking)
	}
	return nil
}

func (s *Sink) connect() error {
	var names []string
	for name := range s.topics {
		names = append(names, name)
	}
	slices.Sort(names)
	opts := append(slices.Concat(s.deps.Kafka, schemas.ConsumeCommitted()),
		kgo.ConsumerGroup(schemas.GroupSink),
		kgo.ConsumeTopics(names...),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(s.cfg.Session),
		kgo.HeartbeatInterval(min(3*time.Second, s.cfg.Session/3)),
		// Nothing is committed, so that leases run out, while a rebalance waits for a member that does not join. But no generation may skip a
		// static member: of one that has not joined again in time, Apache Kafka's group coordinator keeps in the next generation what it claimed
		// when it joined last, and gives away what it did not claim. Thrice the session, it has joined by then, or is expelled.
		kgo.RebalanceTimeout(max(3*s.cfg.Session, 15*time.Second)),
		kgo.DisableAutoCommit(),
		// A partition without a commit is an error that a person sees, as one is whose commit lies outside the log.
		kgo.ConsumeStartOffset(kgo.NewOffset().AtCommitted()),
		// Callbacks never run while a poll's records are decoded, so that records always belong to the part that is found for them.
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(s.assigned),
		kgo.OnPartitionsRevoked(s.revoked),
		kgo.OnPartitionsLost(s.lost),
		kgo.FetchMaxBytes(16<<20),
		kgo.FetchMaxPartitionBytes(4<<20),
		kgo.FetchMaxWait(250*time.Millisecond))
	if s.cfg.Instance != "" {
		opts = append(opts, kgo.InstanceID("sink-"+s.cfg.Instance))
	}
	// A callback may come before NewClient has returned; it waits for decoding.
	s.decoding.Lock()
	defer s.decoding.Unlock()
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("sink: %w", err)
	}
	s.client, s.admin = client, kadm.NewClient(client)
	return nil
}

// pollRecords bounds how long one round of decoding holds a rebalance up: some ten milliseconds.
const pollRecords = 10_000

// poll reads, decodes and hands blocks over until ctx is done, or until an error that no waiting mends.
func (s *Sink) poll(ctx context.Context) error {
	for {
		pctx, cancel := context.WithTimeout(ctx, s.pollWait())
		fetches := s.client.PollRecords(pctx, pollRecords)
		cancel()
		err := s.fetchError(fetches)
		if err == nil {
			err = s.decode(fetches)
		}
		s.client.AllowRebalance()
		switch {
		case err != nil:
			return err
		case s.ctx.Err() != nil:
			return context.Cause(s.ctx)
		case ctx.Err() != nil:
			return nil
		}
		for i := range s.blocks {
			if s.due(i) {
				s.handOver(ctx, i)
			}
		}
		s.resume()
	}
}

// pollWait is until a block under construction is due, or until something may have changed that a poll does not notice.
func (s *Sink) pollWait() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := 250 * time.Millisecond
	for _, b := range s.blocks {
		if !b.since.IsZero() {
			wait = min(wait, time.Until(b.since.Add(b.wait)))
		}
	}
	return max(wait, time.Millisecond)
}

// due reports whether a block should be handed over.
func (s *Sink) due(i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blocks[i]
	switch {
	case b.since.IsZero():
		return false
	case b.bytes >= s.cfg.FlushBytes, b.rows >= min(growth*s.cfg.FlushRows, maxBlockRows), time.Since(b.since) >= b.wait:
		return true
	}
	return b.rows >= s.cfg.FlushRows && !s.working(b)
}

// growth is how far beyond FlushRows a block may grow while its tables are busy with the one before: the sync to disk that ends each
// insert costs the same for more rows.
const growth = 4

// maxBlockRows is below what ClickHouse still writes as one part.
const maxBlockRows = 1_000_000

// working reports whether a table that the block has rows for is inserting. Under mu.
func (s *Sink) working(b *block) bool {
	for d := range b.fills {
		if len(d.queue) > 0 && d.refused == nil {
			return true
		}
	}
	return false
}

// fetchError is the first error of a poll that is fatal; what the client retries by itself is logged.
func (s *Sink) fetchError(fetches kgo.Fetches) error {
	var fatal error
	fetches.EachError(func(topic string, partition int32, err error) {
		var session *kgo.ErrGroupSession
		switch {
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), fatal != nil:
		case errors.Is(err, kgo.ErrClientClosed):
			fatal = err
		case errors.Is(err, kerr.FencedInstanceID):
			fatal = s.fenced()
		case errors.As(err, &session), kerr.IsRetriable(err), errors.Is(err, kerr.UnknownTopicOrPartition):
			s.log.Warn("sink cannot read for now", "topic", topic, "partition", partition, "error", err)
		case errors.Is(err, kerr.OffsetOutOfRange):
			fatal = fmt.Errorf("sink: the committed offset of %s/%d lies outside the topic, records were lost or the topic was made anew: counterfoil adopt --offsets says what going on means: %w", topic, partition, err)
		default:
			// Also a partition without a commit ends here; the client keeps that error to itself.
			fatal = fmt.Errorf("sink: read %s/%d (a missing offset: run counterfoil migrate, which says what to do): %w", topic, partition, err)
		}
	})
	return fatal
}

func (s *Sink) fenced() error {
	return fmt.Errorf("sink: another copy with INSTANCE=%s has taken this one's place: give each copy a name of its own", s.cfg.Instance)
}

// queueLimit is how many blocks may wait for a table that works, the one being inserted included: while one is inserted the next is ready.
const queueLimit = 2

// handOver gives a block to the writers of its tables. It waits for those that are busy, and so holds reading up; a table that refuses
// rows is not waited for, its partitions are paused instead. It runs on Run's goroutine between polls. At the end of Run the block stays:
// the tables may be waiting for a lease that a rebalance holds up, and drain hands it over in any case.
func (s *Sink) handOver(ctx context.Context, i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ctx.Err() == nil && s.ctx.Err() == nil && s.busy(s.blocks[i]) {
		s.changed.Wait()
	}
	if ctx.Err() == nil {
		s.enqueue(i)
	}
}

// busy reports whether a table that the block has rows for has its queue full and works. Under mu.
func (s *Sink) busy(b *block) bool {
	for d := range b.fills {
		if len(d.queue) >= queueLimit && d.refused == nil {
			return true
		}
	}
	return false
}

// enqueue hands a block over and begins a new one. Under mu.
//
// Also a table without rows gets an entry while others wait before it, because its partitions' position must not pass them.
func (s *Sink) enqueue(i int) {
	b := s.blocks[i]
	s.blocks[i] = newBlock(b.wait)
	if b.since.IsZero() {
		return
	}
	for _, d := range s.dests {
		next := map[*part]int64{}
		for p, n := range b.next {
			if slices.Contains(p.dests, d) && !p.gone {
				next[p] = n
			}
		}
		f := b.fills[d]
		switch {
		case f == nil && len(next) == 0:
		case f == nil && len(d.queue) == 0:
			d.advance(next)
		default:
			d.queue = append(d.queue, &entry{fill: f, next: next, bytes: b.bytes})
			if d.refused != nil {
				s.pauseAll(d)
			}
		}
	}
	s.changed.Broadcast()
	s.requestCommit()
}

// pause stops fetching a partition; resume starts it again when nothing holds it up any more.
func (s *Sink) pause(p *part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pauseLocked(p)
}

func (s *Sink) pauseLocked(p *part) {
	if !p.paused && !p.gone {
		p.paused = true
		s.client.PauseFetchPartitions(map[string][]int32{p.topic: {p.partition}})
	}
}

// pauseAll pauses the partitions that feed a table. Under mu.
func (s *Sink) pauseAll(d *dest) {
	for _, p := range s.parts {
		if p.active && slices.Contains(p.dests, d) {
			s.pauseLocked(p)
		}
	}
}

// resume starts paused partitions again whose tables take rows and whose schemas are known. On Run's goroutine.
func (s *Sink) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parts {
		if p.paused && p.active && len(p.waiting) == 0 && !slices.ContainsFunc(p.dests, func(d *dest) bool { return d.refused != nil }) {
			p.paused = false
			s.client.ResumeFetchPartitions(map[string][]int32{p.topic: {p.partition}})
		}
	}
}

// drainWait bounds how long a partition that is given up is worked off: well below the rebalance timeout.
func (s *Sink) drainWait() time.Duration { return min(s.cfg.Lease/2, 10*time.Second) }

// drain inserts what was read and releases everything. The end of Run.
func (s *Sink) drain() {
	s.mu.Lock()
	s.draining = true
	all := make(map[string][]int32)
	for tp := range s.parts {
		all[tp.topic] = append(all[tp.topic], tp.partition)
	}
	s.mu.Unlock()
	s.giveUp(all)
}
