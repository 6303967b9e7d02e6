package processors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/processors/reference"
	"github.com/counterfoil/counterfoil/schemas"
)

// How long a poll waits at most: without records it is the time after which a move over markers is committed, and while a partition
// waits for a schema it is how often the registry's cache is asked.
const (
	idlePoll    = time.Second
	waitingPoll = 20 * time.Millisecond
	lagInterval = 5 * time.Second
	// positionPoll is how often a take-over looks whether the client has read the committed positions.
	positionPoll = 5 * time.Millisecond
)

// place is a partition of an item topic.
type place struct {
	topic     string
	partition int32
}

// session is the life of one client: it joins the group, owns partitions, and judges what it polls. After anything but a clean end it is
// thrown away with everything it knows.
type session struct {
	p     *Processor
	log   *slog.Logger
	gts   *kgo.GroupTransactSession
	cl    *kgo.Client
	work  context.Context    // ends when the drain time is over, or with the session
	stop  context.CancelFunc // ends work
	tasks sync.WaitGroup     // take-overs
	next  time.Time          // when the lag is measured again

	partitions map[string]int32 // topic → number of partitions, of every topic that is written
	codecs     map[string]*codecs
	dead       *schemas.Encoder // of dead letters
	attempts   *schemas.Encoder // of the changelog of that name
	limit      int              // records of the next round
	round      *round
	progress   bool          // something was committed
	moved      bool          // positions moved over markers only since the last commit
	rebalance  chan struct{} // a rebalance wants to begin and waits for the round to end

	mu         sync.Mutex // held briefly; the group's callbacks take it
	joined     bool
	member     string // of the group, and its generation, in which the lanes are ours
	generation int32
	skipped    bool // others were members in a generation in between
	lanes      map[place]*lane
	adopted    []*lane // assigned, not taken over yet
	revoked    bool    // a partition was taken from us since the last end: the transaction session refuses to commit
	wake       func()  // ends the poll under way
	failure    error   // of a take-over
}

// consumerOptions are those of both clients that read: the group's, and a take-over's.
func consumerOptions() []kgo.Opt {
	return append(schemas.ConsumeCommitted(),
		// A fetch that is under way does not know of a partition that was just resumed: this bounds how long that partition waits.
		kgo.FetchMaxWait(250*time.Millisecond),
		// Bounds the memory of what is fetched ahead, before it is unpacked.
		kgo.FetchMaxBytes(16<<20),
		kgo.FetchMaxPartitionBytes(2<<20))
}

// newSession makes one that is not connected.
func newSession(work context.Context, p *Processor) *session {
	s := &session{
		p: p, log: p.log, limit: p.cfg.RoundRecords,
		partitions: map[string]int32{}, codecs: map[string]*codecs{},
		rebalance: make(chan struct{}, 1), lanes: map[place]*lane{}, wake: func() {},
	}
	s.round = newRound(s)
	s.work, s.stop = context.WithCancel(work)
	return s
}

// openSession connects and prepares everything but the membership, which the client takes up by itself. The session lasts as long as work.
func openSession(ctx, work context.Context, p *Processor) (*session, error) {
	s := newSession(work, p)
	if err := s.prepare(ctx); err != nil {
		s.stop()
		return nil, err
	}
	opts := slices.Concat(p.deps.Kafka, consumerOptions(), []kgo.Opt{
		kgo.ConsumeStartOffset(kgo.NewOffset().AtCommitted()),
		kgo.ConsumerGroup(Group(p.name)),
		kgo.ConsumeTopics(Topics(p.name)...),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(p.cfg.SessionTimeout),
		kgo.HeartbeatInterval(min(3*time.Second, p.cfg.SessionTimeout/4)),
		// A round that waits gives way, and one that is being committed ends in less. A static member that does not join again in time stays in the
		// next generation, with what it claimed when it last joined: see errSkipped. Whoever is silent goes after the session timeout anyway.
		kgo.RebalanceTimeout(3 * max(p.cfg.SessionTimeout, p.cfg.TransactionTimeout)),
		// A rebalance waits for the round under way, which so gets committed instead of being read again; it is told of it, so that a round
		// that waits for something else gives way.
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsCallbackBlocked(s.onBlocked),
		kgo.OnPartitionsAssigned(s.onAssigned),
		kgo.OnPartitionsRevoked(s.onRevoked),
		kgo.OnPartitionsLost(s.onRevoked),
		kgo.TransactionalID(transactionalIDs(p.name) + p.instance),
		kgo.TransactionTimeout(p.cfg.TransactionTimeout),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytesFn(maxBatchBytes),
		kgo.MaxBufferedRecords(4 * p.cfg.RoundRecords),
	})
	if p.cfg.Instance != "" {
		opts = append(opts, kgo.InstanceID(p.cfg.Instance))
	}
	var err error
	if s.gts, err = kgo.NewGroupTransactSession(opts...); err != nil {
		s.stop()
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	s.cl = s.gts.Client()
	// Taking the producer id ends the transaction that a predecessor of the same id left open. Until then our group, which the client joins
	// meanwhile, gets no positions: it reads stable ones.
	if _, _, err := s.cl.ProducerID(ctx); err != nil {
		s.close()
		return nil, fmt.Errorf("take over the transactional id: %w", err)
	}
	return s, nil
}

// prepare looks up schema ids and partition counts.
func (s *session) prepare(ctx context.Context) error {
	cl, err := kgo.NewClient(s.p.deps.Kafka...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	written := []string{schemas.DeadLetters}
	for _, k := range s.p.kinds {
		c, err := k.encoders(ctx, s.p.deps.Registry)
		if err != nil {
			return err
		}
		s.codecs[k.name] = c
		written = append(written, k.writes()...)
	}
	if s.dead, err = s.p.deps.Registry.Encoder(ctx, schemas.DeadLetters); err != nil {
		return err
	}
	if s.attempts, err = s.p.deps.Registry.Encoder(ctx, schemas.Attempts); err != nil {
		return err
	}
	details, err := kadm.NewClient(cl).ListTopics(ctx, written...)
	if err != nil {
		return fmt.Errorf("read topics: %w", err)
	}
	for _, topic := range written {
		d := details[topic]
		if d.Err != nil || len(d.Partitions) == 0 {
			return fmt.Errorf("topic %s is not there (run counterfoil migrate): %w", topic, d.Err)
		}
		s.partitions[topic] = int32(len(d.Partitions))
	}
	for _, k := range s.p.kinds {
		for _, topic := range k.changelogs() {
			if s.partitions[k.name] != s.partitions[topic] {
				return &stateError{fmt.Errorf("%s has %d partitions and the changelog %s %d: counts must be equal and never change",
					k.name, s.partitions[k.name], topic, s.partitions[topic])}
			}
		}
	}
	return nil
}

// maxBatchBytes is what the broker takes in one batch of a topic.
func maxBatchBytes(topic string) int32 {
	if t, ok := schemas.TopicNamed(topic); ok {
		if n, err := strconv.ParseInt(t.Config["max.message.bytes"], 10, 32); err == nil {
			return int32(n)
		}
	}
	return 1_000_012 // Kafka's default
}

// close leaves the group, unless the member is static, and gives everything up.
func (s *session) close() {
	s.stop()
	s.tasks.Wait()
	if s.gts != nil {
		// A broker that does not answer must not hold up the way out; the group forgets us after the session timeout.
		bound, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s.gts.AllowRebalance()
		_ = s.cl.LeaveGroupContext(bound)
		s.gts.CloseAllowingRebalance()
	}
	s.p.metrics.forget()
}

// ready is nil when the group is joined and every owned partition is restored.
func (s *session) ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.joined {
		return errors.New("has not joined its group yet")
	}
	for at, l := range s.lanes {
		if !l.restored {
			return fmt.Errorf("state of %s partition %d is being restored", at.topic, at.partition)
		}
	}
	return nil
}

// onBlocked notes that a rebalance waits for the round.
func (s *session) onBlocked(context.Context, *kgo.Client) {
	select {
	case s.rebalance <- struct{}{}:
	default:
	}
}

// onAssigned notes new partitions, which are paused before their first fetch. The rest happens in the loop and beside it.
func (s *session) onAssigned(_ context.Context, cl *kgo.Client, assigned map[string][]int32) {
	member, generation := cl.GroupMetadata()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skipped = s.skipped || len(s.lanes) > 0 && (member != s.member || generation != s.generation+1)
	s.joined, s.member, s.generation = true, member, generation
	for topic, partitions := range assigned {
		k := kindNamed(s.p.kinds, topic)
		for _, partition := range partitions {
			l := newLane(s, k, partition)
			s.lanes[place{topic, partition}] = l
			s.adopted = append(s.adopted, l)
			s.p.metrics.setTakeover(topic, partition, takeoverRestoring)
		}
		cl.PauseFetchPartitions(map[string][]int32{topic: partitions})
	}
	s.wake()
}

// errSkipped ends a session that a generation of the group passed by, in which others judged what it has. Kafka's client does not always say
// so, and goes on from where it was: when a JoinGroup finds the member unknown, it joins again under a new id and keeps what it believes to own.
// And the coordinator keeps a static member that did not join again in time, and gives away what that one did not claim when it last joined.
var errSkipped = errors.New("others have judged partitions of this member, in a generation of the group without it")

// errGeneration refuses the commit of a round that the group has overtaken: the client has joined the next generation already, and only waits
// for the round to end before it says what that took from us. The broker takes a commit under the new generation whoever owns the partition by
// now. So a round is committed under the generation in which it was polled, or not at all.
var errGeneration = errors.New("the group's next generation began before the round was committed")

// onRevoked forgets partitions, and with them their state. Nothing that was polled before may be committed.
func (s *session) onRevoked(_ context.Context, _ *kgo.Client, revoked map[string][]int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, partitions := range revoked {
		for _, partition := range partitions {
			at := place{topic, partition}
			if l := s.lanes[at]; l != nil {
				l.dropped.Store(true)
				delete(s.lanes, at)
				s.log.Debug("gave a partition up", "topic", topic, "partition", partition, "judged_to", l.done, "generation", s.generation)
			}
			s.p.metrics.dropPartition(topic, partition)
			s.revoked = true
		}
	}
	s.wake()
}

// run polls and judges until ctx is done (nil) or the session cannot go on.
func (s *session) run(ctx context.Context) error {
	for ctx.Err() == nil {
		s.takeOverAdopted()
		s.resumeWaiting()
		fetches, err := s.poll(ctx)
		if err != nil {
			return err
		}
		if err := s.checkSkipped(); err != nil {
			return err
		}
		switch { // no rebalance begins from here on until it is allowed again
		case s.wasRevoked():
			err = s.abort()
		case fetches.NumRecords() == 0:
			err = s.commitIdle()
		default:
			err = s.round.run(fetches)
		}
		if err != nil {
			return err
		}
		s.gts.AllowRebalance()
		s.measureLag()
	}
	return nil
}

// checkSkipped asks, after a generation without us, whether the committed positions are still those that the client knows. Then nobody has judged
// since it read them, and the state, which was read back after that (see session.takeOver), is that of these positions.
func (s *session) checkSkipped() error {
	s.mu.Lock()
	skipped := s.skipped
	s.skipped = false
	s.mu.Unlock()
	if !skipped {
		return nil
	}
	ours := s.cl.CommittedOffsets()
	ctx, cancel := context.WithTimeout(kadm.RequireStable(s.work), s.p.cfg.SessionTimeout+s.p.cfg.TransactionTimeout)
	defer cancel()
	for {
		theirs, err := kadm.NewClient(s.cl).FetchOffsets(ctx, Group(s.p.name))
		if err == nil {
			err = theirs.Error()
		}
		if errors.Is(err, kerr.UnstableOffsetCommit) && ctx.Err() == nil { // somebody's transaction is under way
			time.Sleep(waitingPoll)
			continue
		}
		if err != nil {
			return fmt.Errorf("read the committed positions: %w", err)
		}
		for topic, partitions := range ours {
			for partition, position := range partitions {
				if at, _ := theirs.Lookup(topic, partition); at.At != position.Offset {
					return fmt.Errorf("%w: %s partition %d is committed to %d, not to %d", errSkipped, topic, partition, at.At, position.Offset)
				}
			}
		}
		return nil
	}
}

// poll returns at once when there are records, else when there is other work or after a while. Without an error it holds rebalances up, so that
// nothing that the round knows of its partitions changes beneath it.
func (s *session) poll(ctx context.Context) (kgo.Fetches, error) {
	wait, cancel := context.WithTimeout(ctx, s.pollTime())
	defer cancel()
	s.mu.Lock()
	s.wake = cancel
	if len(s.adopted) > 0 || s.revoked {
		cancel()
	}
	failure := s.failure
	s.mu.Unlock()
	if failure != nil {
		return nil, failure
	}
	select {
	case <-s.rebalance: // was let through
	default:
	}
	fetches := s.gts.PollRecords(wait, s.limit)
	if len(fetches) == 0 { // what was ready went with a partition: then the client holds nothing up
		cancel()
		fetches = s.gts.PollRecords(wait, s.limit)
	}
	for _, e := range fetches.Errors() {
		if errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, context.DeadlineExceeded) {
			continue
		}
		return nil, fmt.Errorf("poll %s partition %d: %w", e.Topic, e.Partition, e.Err)
	}
	return fetches, nil
}

func (s *session) pollTime() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lanes {
		if l.waiting != nil {
			return waitingPoll
		}
	}
	return idlePoll
}

// isNoCommit recognises franz-go's error for a partition without a committed position, which it does not export.
func isNoCommit(err error) bool {
	return err != nil && strings.Contains(err.Error(), "no prior committed offset")
}

func (s *session) wasRevoked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revoked
}

// abort ends a round in which a partition was taken from us, and the transaction session's refusal to commit with it. No commit was sent; after
// a clean answer only the overlay is dropped, and everything polled is read again from the commit. It must run while rebalances are held up:
// the client reads what is committed and goes back to it in two steps, and a partition that went and came again in between would be judged
// from where it was when it went.
func (s *session) abort() error {
	s.mu.Lock()
	s.revoked = false
	s.mu.Unlock()
	bound, cancel := context.WithTimeout(s.work, max(s.p.cfg.TransactionTimeout, s.p.cfg.SessionTimeout))
	defer cancel()
	if _, err := s.gts.End(bound, kgo.TryAbort); err != nil {
		return fmt.Errorf("abort: %w", err)
	}
	s.aborted()
	return nil
}

// aborted forgets the round under way.
func (s *session) aborted() {
	s.p.metrics.rounds.WithLabelValues("aborted").Inc()
	s.moved = false
	s.mu.Lock()
	lanes := slices.Collect(maps.Values(s.lanes))
	s.mu.Unlock()
	for _, l := range lanes {
		l.drop()
		s.release(l)
	}
}

// resumeWaiting lets a partition go on whose schema the registry has answered for.
func (s *session) resumeWaiting() {
	s.mu.Lock()
	lanes := slices.Collect(maps.Values(s.lanes))
	s.mu.Unlock()
	for _, l := range lanes {
		if l.waiting != nil && !errors.Is(l.judge.decode(l.waiting.Value), schemas.ErrSchemaPending) {
			s.release(l)
		}
	}
}

// release fetches a partition again that waited for a schema.
func (s *session) release(l *lane) {
	if l.waiting != nil {
		l.waiting = nil
		s.p.metrics.setWaiting(l.place(), false)
		s.cl.ResumeFetchPartitions(l.asMap())
	}
}

// rewind goes back to the records at which partitions wait for a schema, and pauses them. What is committed is already so; franz-go
// believes that it is what was polled.
func (s *session) rewind(stops map[place]int64) {
	if len(stops) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	back := map[string]map[int32]kgo.EpochOffset{}
	for at, position := range stops {
		if s.lanes[at] == nil {
			continue
		}
		if back[at.topic] == nil {
			back[at.topic] = map[int32]kgo.EpochOffset{}
		}
		back[at.topic][at.partition] = kgo.EpochOffset{Epoch: -1, Offset: position}
		s.cl.PauseFetchPartitions(s.lanes[at].asMap())
		s.p.metrics.setWaiting(at, true)
		s.log.Info("partition waits for the registry to answer about a schema", "topic", at.topic, "partition", at.partition, "offset", position)
	}
	s.cl.SetOffsets(back)
}

// commitIdle commits a move over markers once there is nothing else to do, so that the group's lag ends at zero.
func (s *session) commitIdle() error {
	if !s.moved {
		return nil
	}
	if err := s.gts.Begin(); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	_, err := s.end(nil)
	return err
}

// end commits a round, of which positions are those up to which its partitions have been judged.
//
// Only (true, nil) is a commit. After anything else nobody here knows what the broker did with it (an answer of "aborted" has been seen
// after a commit that was applied), so the session is given up: a fresh client of the same transactional id learns it from the committed
// positions. The exception is a round in which a partition was taken from us, or may have been: it is not committed (false, nil), see abort and
// errGeneration.
func (s *session) end(positions map[place]int64) (committed bool, err error) {
	if s.wasRevoked() {
		return false, s.abort()
	}
	begun := time.Now()
	// End waits for the group's answer without a bound of its own; one that does not come is an unknown commit like any other.
	bound, cancel := context.WithTimeout(s.work, max(s.p.cfg.TransactionTimeout, s.p.cfg.SessionTimeout))
	defer cancel()
	ctx := kgo.PreTxnCommitFnContext(bound, func(req *kmsg.TxnOffsetCommitRequest) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.skipped || req.MemberID != s.member || req.Generation != s.generation {
			return errGeneration
		}
		return correct(req, positions)
	})
	committed, err = s.gts.End(ctx, kgo.TryCommit)
	if errors.Is(err, errGeneration) { // and the abort was answered
		s.aborted()
		return false, nil
	}
	if err != nil || !committed {
		s.p.metrics.rounds.WithLabelValues("unknown").Inc()
		return false, &commitError{err}
	}
	s.p.metrics.committed(time.Since(begun))
	s.progress, s.moved = true, false
	return true, nil
}

// commitError says that it is not known whether a round was committed.
type commitError struct{ cause error }

func (e *commitError) Error() string {
	if e.cause == nil {
		return "commit was refused; what the broker made of it is read from the committed positions"
	}
	return fmt.Sprintf("commit failed; what the broker made of it is read from the committed positions: %v", e.cause)
}

func (e *commitError) Unwrap() error { return e.cause }

// correct sets the positions to commit, of which those of partitions that stopped lie before the end of what was polled. Outcomes without their
// positions would be judged again, so that it is an error if the client would not commit all of them.
func correct(req *kmsg.TxnOffsetCommitRequest, positions map[place]int64) error {
	missing := len(positions)
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			position, ok := positions[place{t.Topic, p.Partition}]
			switch {
			case !ok:
				continue
			case p.Offset < position:
				return fmt.Errorf("%s partition %d was judged to %d, and the client would commit %d", t.Topic, p.Partition, position, p.Offset)
			case p.Offset > position:
				p.Offset, p.LeaderEpoch = position, -1
			}
			missing--
		}
	}
	if missing > 0 {
		return fmt.Errorf("the client would commit no position of %d partitions that were judged", missing)
	}
	return nil
}

// measureLag asks now and then how far the owned partitions have grown, beside the loop.
func (s *session) measureLag() {
	if time.Now().Before(s.next) {
		return
	}
	positions := s.cl.CommittedOffsets()
	judged := map[place]time.Time{}
	ask := map[string][]int32{}
	s.mu.Lock()
	for at, l := range s.lanes {
		judged[at] = l.judged
		ask[at.topic] = append(ask[at.topic], at.partition)
	}
	s.mu.Unlock()
	if len(ask) == 0 {
		return
	}
	s.next = time.Now().Add(lagInterval)
	s.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(s.work, lagInterval)
		defer cancel()
		ends, err := reference.HighWatermarks(ctx, s.cl, ask)
		if err != nil {
			return // the next measurement will tell
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for at, since := range judged {
			if position, ok := positions[at.topic][at.partition]; ok && s.lanes[at] != nil {
				s.p.metrics.setLag(at, ends[at.topic][at.partition]-position.Offset, time.Since(since))
			}
		}
	})
}
