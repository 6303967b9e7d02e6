package simulation

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
)

// Settings of the engine, as they are by default.
const (
	transactionTimeout = 10 * time.Second
	roundRecords       = 12
)

// tenant of all items.
const tenant = "acme"

// item is a record of the item topic.
type item struct {
	value  *schemas.Ownership
	key    []byte
	right  tp // partition of the key
	origin *position
	sent   *sent
}

// sent is what the run knows of an item, however often it is forwarded.
type sent struct {
	at       position
	known    int // references that were acknowledged before it was sent
	tx       *tx
	outcomes int
}

// judged is an outcome.
type judged struct {
	id       position // of the item
	item     *item
	at       position // where it was judged
	head     schemas.OwnershipResult
	previous int64 // version of the state that it was judged by
	seen     int   // references that the decision could see
}

// change is a record of the changelog.
type change struct {
	key   string
	value *schemas.OwnershipState
}

// engine is a process of the role process, with one processor: processors.Processor.
type engine struct {
	w          *engineWorld
	s          *sim
	p          *proc
	off        guards
	instance   string // of the group; empty: dynamic membership
	id         string // transactional
	references tail
	ending     bool
	gone       func()
}

// tail mirrors the type of that name in processors/reference: how far the reading of the reference topic has come.
type tail struct {
	position int64
	seen     int // committed records
	advanced signal
}

// readReferences is Tables.Run.
func (k *engine) readReferences(t *task) {
	r := &k.references
	for {
		got := k.w.references.read(r.position, 10, true)
		for _, e := range got {
			if !e.control {
				r.seen++
			}
			r.position = e.offset + 1
		}
		if len(got) > 0 {
			r.advanced.give()
			t.step("references read")
			continue
		}
		t.wait(k.w.grown, 5*time.Second)
	}
}

// run is Processor.keepSession.
func (k *engine) run(t *task) {
	k.s.spawn(k.p, "references", k.readReferences)
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		c := &engineSession{engine: k, lanes: map[tp]*lane{}}
		err := c.open(t)
		if err == nil {
			err = c.run(t)
			c.close(t)
		}
		k.s.note(k.p.name, "session ends", "%v", err)
		if k.ending || errors.Is(err, errFencedInstance) {
			k.p.dead = true
			k.gone()
			return
		}
		if c.progress {
			pause = 100 * time.Millisecond
		}
		t.sleep(pause)
	}
}

// lane mirrors the type of that name.
type lane struct {
	tp       tp
	restored bool
	dropped  bool
	kept     map[string]*schemas.OwnershipState
	changes  map[string]*schemas.OwnershipState // the overlay; a nil value removes the key
	changed  []string
	outcomes []any
	forwards map[tp][]any
}

func (l *lane) drop() {
	l.changes, l.changed, l.outcomes, l.forwards = map[string]*schemas.OwnershipState{}, nil, nil, map[tp][]any{}
}

func (l *lane) keep() {
	for _, key := range l.changed {
		l.apply(key, l.changes[key])
	}
	l.drop()
}

func (l *lane) apply(key string, value *schemas.OwnershipState) {
	if value == nil {
		delete(l.kept, key)
	} else {
		l.kept[key] = value
	}
}

// engineSession is the life of one client: processors.session.
type engineSession struct {
	*engine
	client     *client
	committed  map[tp]int64 // as the client knows it
	by         session
	inTx       bool
	failing    lock // GroupTransactSession.failMu
	refuses    bool // the transaction session does: a callback has fired since the last end
	lanes      map[tp]*lane
	adopted    []*lane
	revoked    bool
	member     string // in which, and in whose generation, the lanes are ours
	generation int
	skipped    bool
	moved      bool
	waits      signal // a rebalance waits for the round, or a reference has come
	blocked    bool
	failure    error
	stopped    bool
	progress   bool
	tasks      int
	over       signal
}

// open is openSession.
func (c *engineSession) open(t *task) error {
	c.by = session{id: c.id, epoch: c.w.transactions.producer(c.id).epoch, number: 1 + c.w.transactions.producer(c.id).last}
	if !c.off[endsPredecessor] {
		for {
			epoch, err := call(t, c.w.kafka, "InitProducerId", 5*time.Second, nil, func(answer func(int, error)) {
				c.w.transactions.initialize(c.id, answer)
			})
			if err == nil {
				c.by = session{c.id, epoch, 1}
				break
			}
			if c.ending {
				return err
			}
			t.sleep(100 * time.Millisecond)
		}
	}
	c.committed = map[tp]int64{}
	c.client = &client{
		s: c.s, g: c.w.group, p: c.p, instance: c.instance, unstable: c.off[stableOffsets], unblocked: c.w.unblocked,
		assigned: c.onAssigned, revoked: c.onRevoked, lost: c.onRevoked,
		blocked: func() { c.blocked = true; c.waits.give() },
		fetched: func(n tp, offset int64) { c.committed[n] = offset },
		fatal:   func(err error) { c.failure = err; c.w.grown.give() },
	}
	c.client.start()
	return nil
}

func (c *engineSession) close(t *task) {
	c.stopped = true
	c.over.give()
	for c.tasks > 0 {
		t.wait(&c.over, 0)
	}
	c.client.close(t)
	for !c.client.ended && t.wait(&c.client.over, 60*time.Second) {
	}
}

func (c *engineSession) onAssigned(_ *task, assigned []tp) {
	member, generation := c.client.member, c.client.generation
	c.skipped = c.skipped || len(c.lanes) > 0 && (member != c.member || generation != c.generation+1)
	c.member, c.generation = member, generation
	for _, n := range assigned {
		delete(c.committed, n)
		l := &lane{tp: n, kept: map[string]*schemas.OwnershipState{}}
		l.drop()
		c.lanes[n] = l
		c.adopted = append(c.adopted, l)
		c.client.paused[n] = true
	}
	c.w.grown.give()
}

// checkSkipped is the function of that name.
func (c *engineSession) checkSkipped(t *task) error {
	skipped := c.skipped
	if c.skipped = false; !skipped || c.off[commitsCompared] {
		return nil
	}
	var ask []tp
	ours := map[tp]int64{}
	for n := range c.lanes {
		if at, known := c.committed[n]; known {
			ask, ours[n] = append(ask, n), at
		}
	}
	slices.Sort(ask)
	for {
		theirs, err := call(t, c.w.kafka, "OffsetFetch", 5*time.Second, nil, func(answer func(map[tp]commit, error)) {
			c.w.group.fetchOffsets(ask, true, answer)
		})
		switch {
		case errors.Is(err, errUnstable):
			t.sleep(20 * time.Millisecond)
			continue
		case err != nil:
			return err
		}
		for _, n := range ask {
			if theirs[n].offset != ours[n] {
				return errSkipped
			}
		}
		return nil
	}
}

// onRevoked runs with failMu held, as the transaction session calls it.
func (c *engineSession) onRevoked(t *task, revoked []tp) {
	t.lock(&c.failing)
	defer c.failing.unlock()
	if len(revoked) > 0 {
		c.refuses = true
	}
	for _, n := range revoked {
		if l := c.lanes[n]; l != nil {
			l.dropped = true
			delete(c.lanes, n)
		}
		c.revoked = true
	}
	c.w.grown.give()
}

// run is session.run.
func (c *engineSession) run(t *task) error {
	for !c.ending {
		if c.failure != nil {
			return c.failure
		}
		c.takeOverAdopted()
		c.client.poll(t)
		c.blocked = false
		polled := c.fetch()
		err := c.checkSkipped(t)
		switch {
		case err != nil:
		case c.revoked:
			err = c.abort(t)
		case len(polled) > 0:
			t.step("polled")
			err = c.round(t, polled)
		case c.moved:
			_, err = c.end(t)
		}
		c.client.rebalancing.unlock()
		if err != nil {
			return err
		}
		if len(polled) == 0 && len(c.adopted) == 0 && !c.revoked {
			t.wait(c.w.grown, 5*time.Second)
		}
	}
	return nil
}

// portion mirrors the type of that name: what was polled of one partition.
type portion struct {
	lane    *lane
	records []entry
}

func (c *engineSession) fetch() (polled []portion) {
	if c.w.kafka.hung > c.s.now {
		return nil
	}
	for n := range c.w.items {
		at, known := c.client.position[tp(n)]
		if !known || c.client.paused[tp(n)] || !slices.Contains(c.client.owned, tp(n)) {
			continue
		}
		if got := c.w.items[n].read(at, roundRecords, !c.off[readCommitted]); len(got) > 0 {
			c.client.position[tp(n)] = got[len(got)-1].offset + 1
			polled = append(polled, portion{c.lanes[tp(n)], got})
		}
	}
	return polled
}

// round is round.run.
func (c *engineSession) round(t *task, polled []portion) error {
	count := 0
	for _, w := range polled {
		if w.lane == nil || !w.lane.restored {
			return c.abort(t)
		}
		for _, e := range w.records {
			if !e.control {
				count++
			}
		}
	}
	if c.revoked {
		return c.abort(t)
	}
	if count == 0 {
		c.moved = true
		return nil
	}
	if !c.awaitReferences(t) {
		return c.abort(t)
	}
	t.step("judge")
	for _, w := range polled {
		for _, e := range w.records {
			if it, ok := e.value.(*item); ok {
				c.judge(w.lane, e, it)
			}
		}
	}
	if err := c.produce(t, polled); err != nil {
		return err
	}
	committed, err := c.end(t)
	if err != nil || !committed {
		return err
	}
	for _, w := range polled {
		w.lane.keep()
	}
	return nil
}

// awaitReferences is the barrier: round.awaitReferences and Tables.WaitFor.
func (c *engineSession) awaitReferences(t *task) bool {
	if c.off[barrier] {
		return true
	}
	for {
		mark, err := call(t, c.w.kafka, "ListOffsets", 5*time.Second, nil, func(answer func(int64, error)) {
			answer(c.w.end(c.w.references, c.off[barrierHighWatermark]), nil)
		})
		for err == nil {
			if c.references.position >= mark {
				return true
			}
			if c.blocked || c.ending {
				return false
			}
			t.wait(&c.references.advanced, 100*time.Millisecond)
		}
		if c.blocked || c.ending {
			return false
		}
		t.sleep(10 * time.Millisecond)
	}
}

// judge is lane.judgeOne.
func (c *engineSession) judge(l *lane, e entry, it *item) {
	at := position{l.tp, e.offset}
	id := at
	if it.origin != nil {
		id = *it.origin
	}
	if it.right != l.tp && !c.off[forwardMisplaced] {
		forwarded := *it
		if !c.off[originKept] {
			forwarded.origin = &id
		}
		l.forwards[it.right] = append(l.forwards[it.right], &forwarded)
		return
	}
	key := string(it.key)
	cur, changed := l.changes[key]
	if !changed {
		cur = l.kept[key]
	}
	head, next := upserts.Decide(it.value, cur, schemas.Version(0, e.offset))
	j := &judged{id: id, item: it, at: at, head: head, seen: c.references.seen}
	if cur != nil {
		j.previous = cur.Version
	}
	l.outcomes = append(l.outcomes, j)
	if !changed {
		l.changed = append(l.changed, key)
	}
	l.changes[key] = next
}

// produce is round.produce: everything that the round made, in one transaction.
func (c *engineSession) produce(t *task, polled []portion) error {
	c.inTx = true
	by := c.by
	for _, w := range polled {
		l := w.lane
		requests := []*produceRequest{{log: c.w.outcomes[l.tp], records: l.outcomes}}
		state := &produceRequest{log: c.w.changelogs[l.tp]}
		for _, key := range l.changed {
			state.records = append(state.records, &change{key, l.changes[key]})
		}
		requests = append(requests, state)
		for n := range c.w.items {
			requests = append(requests, &produceRequest{log: c.w.items[n], records: l.forwards[tp(n)]})
		}
		for _, r := range requests {
			if len(r.records) == 0 {
				continue
			}
			if r == state && c.off[stateInTransaction] {
				for _, v := range r.records {
					r.log.append(nil, v)
				}
				continue
			}
			if err := c.insist(t, "Produce", func(answer func(struct{}, error)) {
				c.w.transactions.produce(by, r, answer)
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// insist sends a request again as the client does, for as long as a transaction may take.
func (c *engineSession) insist(t *task, what string, serve func(answer func(struct{}, error))) error {
	for end := c.s.now + transactionTimeout; ; {
		_, err := call(t, c.w.kafka, what, 3*time.Second, nil, serve)
		if err == nil || !errors.Is(err, errNoAnswer) && !errors.Is(err, errDown) && !errors.Is(err, errConcurrent) || c.s.now > end {
			return err
		}
		t.sleep(50 * time.Millisecond)
	}
}

// errCommit mirrors commitError: it is not known whether a round was committed.
var errCommit = errors.New("it is not known whether the round was committed")

// errSkipped mirrors the error of that name.
var errSkipped = errors.New("others have judged partitions of this member, in a generation of the group without it")

// errGeneration mirrors the error of that name: the round was overtaken and is aborted.
var errGeneration = errors.New("the group's next generation began before the round was committed")

// end is session.end.
func (c *engineSession) end(t *task) (committed bool, err error) {
	if c.revoked {
		return false, c.abort(t)
	}
	committed, err = c.tryCommit(t)
	if errors.Is(err, errGeneration) {
		c.aborted()
		return false, nil
	}
	if (err != nil || !committed) && !c.off[freshClient] {
		return false, fmt.Errorf("%w: %w", errCommit, err)
	}
	if err != nil || !committed { // the mutation: what is not a commit is taken for an abort
		for _, l := range c.lanes {
			l.drop()
		}
		return false, nil
	}
	c.progress, c.moved = true, false
	return true, nil
}

// tryCommit is GroupTransactSession.End with TryCommit.
func (c *engineSession) tryCommit(t *task) (committed bool, err error) {
	failed := c.refuses
	after := map[tp]int64{}
	for n, offset := range c.client.position {
		if slices.Contains(c.client.owned, n) {
			after[n] = offset
		}
	}
	defer func() {
		c.refuses = false
		if committed {
			maps.Copy(c.committed, after)
		} else {
			c.rewind()
		}
	}()
	if !failed {
		by, id, generation := c.by, c.client.member, c.client.generation
		t.step("before TxnOffsetCommit")
		if (c.skipped && !c.off[commitsCompared] || id != c.member || generation != c.generation) && !c.off[overtakenAborted] {
			failed, err = true, errGeneration
		} else if err = c.insist(t, "TxnOffsetCommit", func(answer func(struct{}, error)) {
			c.w.transactions.commitOffsets(by, id, generation, !c.off[offsetsFenced], after, answer)
		}); err == nil {
			_, err = call(t, c.w.kafka, "Heartbeat", 3*time.Second, nil, func(answer func(struct{}, error)) { c.w.group.heartbeat(id, generation, answer) })
		}
		if errors.Is(err, errRebalance) || c.off[offsetsFenced] {
			err = nil // the group waits until the transaction is over (KIP-447)
		}
	}
	t.lock(&c.failing)
	defer c.failing.unlock()
	commits := !failed && !c.refuses && err == nil
	if errors.Is(err, errIllegalGeneration) || errors.Is(err, errUnknownMember) {
		err = nil
	}
	ended := c.endTransaction(t, commits)
	if errors.Is(ended, errServer) { // the client asks to abort instead, which does nothing any more
		commits, ended = false, nil
	}
	if ended != nil {
		return false, ended
	}
	return commits, err
}

func (c *engineSession) endTransaction(t *task, commits bool) error {
	by := c.by
	c.inTx = false
	c.by.number++
	return c.insist(t, "EndTxn", func(answer func(struct{}, error)) { c.w.transactions.endTransaction(by, commits, answer) })
}

// rewind goes back to what the client knows to be committed.
func (c *engineSession) rewind() {
	for n, offset := range c.committed {
		if _, known := c.client.position[n]; known {
			c.client.position[n] = offset
		}
	}
}

// abort is session.abort.
func (c *engineSession) abort(t *task) error {
	c.revoked = false
	if c.inTx {
		if err := c.endTransaction(t, false); err != nil {
			return err
		}
	}
	c.refuses = false
	c.rewind()
	c.aborted()
	return nil
}

// aborted is session.aborted.
func (c *engineSession) aborted() {
	c.moved = false
	for _, l := range c.lanes {
		if !c.off[overlayDropped] {
			l.drop()
		} else {
			l.keep()
		}
	}
}

// takeOverAdopted is the function of that name.
func (c *engineSession) takeOverAdopted() {
	lanes := c.adopted
	c.adopted = nil
	if len(lanes) > 0 {
		c.tasks++
		c.s.spawn(c.p, "take-over", func(t *task) {
			c.takeOver(t, lanes)
			c.tasks--
			c.over.give()
		})
	}
}

// takeOver restores the state of partitions: session.takeOver, restore and readChangelogs.
func (c *engineSession) takeOver(t *task, lanes []*lane) {
	for _, l := range lanes {
		for known := false; !known && !c.stopped && !l.dropped; {
			if _, known = c.client.position[l.tp]; !known {
				t.sleep(5 * time.Millisecond)
			}
		}
		log := c.w.changelogs[l.tp]
		end := int64(0)
		for !c.stopped && !l.dropped {
			var err error
			if end, err = call(t, c.w.kafka, "ListOffsets", 5*time.Second, nil, func(answer func(int64, error)) {
				answer(c.w.end(log, c.off[restoreHighWatermark]), nil)
			}); err == nil {
				break
			}
			t.sleep(100 * time.Millisecond)
		}
		for at := int64(0); at < end && !c.stopped && !l.dropped; {
			got := log.read(at, 20, true)
			for _, e := range got {
				if ch, ok := e.value.(*change); ok && !e.control {
					l.apply(ch.key, ch.value)
				}
				at = e.offset + 1
			}
			if len(got) == 0 {
				t.wait(c.w.grown, time.Second)
			} else {
				t.step("restore")
			}
		}
		if !c.stopped && !l.dropped {
			l.restored = true
			delete(c.client.paused, l.tp)
			c.w.grown.give()
		}
	}
}
