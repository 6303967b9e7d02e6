package simulation

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Metadata of the sink's commits.
const (
	metaHeld = "held"
	released = "released"
)

// Settings of the sink, as they are by default.
const (
	leaseLength = 10 * time.Second
	answerWait  = 5 * time.Second
	drainWait   = leaseLength / 2
	killAfter   = 5 * time.Second
	queueLimit  = 2
)

// sink is a process of the role sink: sinks/clickhouse.Sink.
type sink struct {
	w        *sinkWorld
	s        *sim
	p        *proc
	off      guards
	instance string
	asked    time.Time // ClickHouse's time when it was asked last
	ending   bool      // SIGTERM
	session  *sinkSession
	gone     func() // the process has ended by itself
}

var errExpelled = errors.New("expelled from the group and joined again under another member id")

// run is Sink.Run.
func (k *sink) run(t *task) {
	for {
		c := &sinkSession{sink: k, parts: map[tp]*part{}, block: newBlock()}
		k.session = c
		err := c.run(t)
		if !errors.Is(err, errExpelled) || k.ending {
			k.s.note(k.p.name, "ends", "%v", err)
			k.p.dead = true
			k.gone()
			return
		}
	}
}

func (k *sink) local() time.Time { return epoch.Add(k.s.now) }

// sinkSession is what the sink knows as one member of the group: Sink.session and the fields that Sink.reset clears.
type sinkSession struct {
	*sink
	client   *client
	parts    map[tp]*part
	dests    []*dest
	block    *block
	lease    lease
	commitMu lock
	decoding lock
	changed  signal
	wake     bool
	wakeUp   signal
	draining bool
	stopped  bool  // Sink.ctx is done
	cause    error // why
	workers  int
}

// part mirrors the type of that name.
type part struct {
	tp        tp
	dests     []*dest
	member    string
	next      int64
	active    bool
	gone      bool
	has       map[*dest]int64
	done      map[*dest]int64
	committed int64
	paused    bool
}

func (p *part) flushed(off guards) int64 {
	low := p.done[p.dests[0]]
	for _, d := range p.dests[1:] {
		if off[commitWhenAllTables] {
			low = max(low, p.done[d])
		} else {
			low = min(low, p.done[d])
		}
	}
	return low
}

// block, fill, entry, dest and lease mirror the types of those names.
type block struct {
	fills map[*dest]*fill
	next  map[*part]int64
	order []*part // of next, so that a run repeats
	rows  int
	since time.Duration // of its first record; negative: none
}

func newBlock() *block {
	return &block{fills: map[*dest]*fill{}, next: map[*part]int64{}, since: -1}
}

type fill struct {
	rows   []row
	owners []*part
}

func (f *fill) dropGone() {
	if f == nil {
		return
	}
	kept := 0
	for i, p := range f.owners {
		if !p.gone {
			f.rows[kept], f.owners[kept] = f.rows[i], p
			kept++
		}
	}
	f.rows, f.owners = f.rows[:kept], f.owners[:kept]
}

type entryOf struct {
	fill *fill
	next map[*part]int64
}

func (e *entryOf) empty() bool { return e.fill == nil || len(e.fill.rows) == 0 }

type dest struct {
	table   *table
	queue   []*entryOf
	refused error
	cancel  *canceler
}

type lease struct {
	until time.Time
	local time.Time
}

func (l lease) fits(now time.Time, margin time.Duration) bool { return l.local.Sub(now) > margin }

func (c *sinkSession) spawn(name string, f func(t *task)) {
	c.workers++
	c.s.spawn(c.p, name, func(t *task) {
		f(t)
		c.workers--
		c.changed.give()
	})
}

func (c *sinkSession) stop(cause error) {
	if !c.stopped {
		c.s.note(c.p.name, "stop", "%v", cause)
		c.stopped, c.cause = true, cause
		c.changed.give()
		c.requestCommit()
	}
}

// run is Sink.session.
func (c *sinkSession) run(t *task) error {
	for _, tb := range c.w.ch.tables {
		c.dests = append(c.dests, &dest{table: tb})
	}
	c.client = &client{
		s: c.s, g: c.w.group, p: c.p, instance: c.instance,
		assigned: c.assigned, revoked: c.giveUp, lost: c.lost, fatal: func(err error) { c.stop(err) },
	}
	c.client.start()
	for _, d := range c.dests {
		c.spawn("writer "+d.table.name, func(t *task) { c.write(t, d) })
	}
	c.spawn("keeper", c.keep)
	err := c.poll(t)
	if err == nil {
		c.drain(t)
	}
	c.stop(err)
	for _, p := range c.parts {
		p.gone = true
	}
	for c.workers > 0 {
		t.wait(&c.changed, 0)
	}
	c.client.close(t)
	for !c.client.ended && t.wait(&c.client.over, 60*time.Second) {
	}
	return err
}

// poll is Sink.poll.
func (c *sinkSession) poll(t *task) error {
	for {
		t.lock(&c.client.rebalancing)
		got := c.decode(t)
		c.client.rebalancing.unlock()
		switch {
		case c.stopped:
			return c.cause
		case c.ending:
			return nil
		}
		if c.due() {
			c.handOver(t)
		}
		c.resume()
		if got {
			t.step("polled")
			continue
		}
		wait := 5 * time.Second
		if c.block.since >= 0 {
			wait = max(time.Millisecond, min(wait, c.block.since+c.w.flushInterval-c.s.now))
		}
		t.wait(c.w.grown, wait)
	}
}

func (c *sinkSession) due() bool {
	b := c.block
	return b.since >= 0 && (b.rows >= c.w.flushRows || c.s.now-b.since >= c.w.flushInterval)
}

// decode is Sink.decode: it moves what was fetched into the block. It reports whether there was anything.
func (c *sinkSession) decode(t *task) (got bool) {
	t.lock(&c.decoding)
	defer c.decoding.unlock()
	if c.w.kafka.down > c.s.now || c.w.kafka.hung > c.s.now {
		return false
	}
	for n := range c.w.logs {
		at, known := c.client.position[tp(n)]
		p := c.parts[tp(n)]
		if !known || c.client.paused[tp(n)] || p == nil || !p.active {
			continue
		}
		read := c.w.logs[n].read(at, 20, true)
		if len(read) == 0 {
			continue
		}
		got = true
		c.client.position[tp(n)] = read[len(read)-1].offset + 1
		b := c.block
		if b.since < 0 {
			b.since = c.s.now
		}
		for _, e := range read {
			if e.offset < p.next {
				continue
			}
			if !e.control {
				c.add(p, e)
			}
			p.next = e.offset + 1
		}
		if _, ok := b.next[p]; !ok {
			b.order = append(b.order, p)
		}
		b.next[p] = p.next
	}
	return got
}

// add is Sink.add: a record goes to the tables that do not have it yet, or to the dead letters.
func (c *sinkSession) add(p *part, e entry) {
	rec := e.value.(*record)
	last := len(p.dests) - 1
	dead := p.dests[last]
	own := p.dests[:last]
	for _, d := range own {
		if c.has(p, d, e.offset) && (c.off[badRecordOfSkipped] || c.has(p, dead, e.offset)) {
			continue
		}
		if rec.bad {
			if !c.has(p, dead, e.offset) {
				c.put(dead, p, e.offset, rec)
			}
			return
		}
		if d.table.wants(p.tp, rec) && !c.has(p, d, e.offset) {
			c.put(d, p, e.offset, rec)
		}
	}
}

// has reports whether the table had a record at take-over.
func (c *sinkSession) has(p *part, d *dest, offset int64) bool { return offset < p.has[d] }

func (c *sinkSession) put(d *dest, p *part, offset int64, rec *record) {
	f := c.block.fills[d]
	if f == nil {
		f = &fill{}
		c.block.fills[d] = f
	}
	f.rows = append(f.rows, row{position{p.tp, offset}, rec})
	f.owners = append(f.owners, p)
	c.block.rows++
}

// handOver is Sink.handOver.
func (c *sinkSession) handOver(t *task) {
	busy := func() bool {
		for _, d := range c.dests {
			if c.block.fills[d] != nil && len(d.queue) >= queueLimit && d.refused == nil {
				return true
			}
		}
		return false
	}
	for !c.ending && !c.stopped && busy() {
		t.wait(&c.changed, 0)
	}
	if !c.ending {
		c.enqueue()
	}
}

// enqueue is Sink.enqueue.
func (c *sinkSession) enqueue() {
	b := c.block
	c.block = newBlock()
	if b.since < 0 {
		return
	}
	for _, d := range c.dests {
		next := map[*part]int64{}
		for _, p := range b.order {
			if n, ok := b.next[p]; ok && slices.Contains(p.dests, d) && !p.gone {
				next[p] = n
			}
		}
		f := b.fills[d]
		switch {
		case f == nil && len(next) == 0:
		case f == nil && (len(d.queue) == 0 || c.off[positionsWait]):
			d.advance(next)
		default:
			d.queue = append(d.queue, &entryOf{fill: f, next: next})
			if d.refused != nil {
				c.pauseAll(d)
			}
		}
	}
	c.changed.give()
	c.requestCommit()
}

func (d *dest) advance(next map[*part]int64) {
	for p, n := range next {
		p.done[d] = max(p.done[d], n)
	}
}

func (d *dest) holds(p *part) bool {
	for _, e := range d.queue {
		if _, ok := e.next[p]; ok {
			return true
		}
	}
	return false
}

func (c *sinkSession) pauseAll(d *dest) {
	for _, p := range c.parts {
		if p.active && slices.Contains(p.dests, d) && !p.paused && !p.gone {
			p.paused = true
			c.client.paused[p.tp] = true
		}
	}
}

func (c *sinkSession) resume() {
	for _, p := range c.parts {
		if p.paused && p.active && !slices.ContainsFunc(p.dests, func(d *dest) bool { return d.refused != nil }) {
			p.paused = false
			delete(c.client.paused, p.tp)
		}
	}
}

func (c *sinkSession) drain(t *task) {
	c.draining = true
	var all []tp
	for n := range c.w.logs {
		if c.parts[tp(n)] != nil {
			all = append(all, tp(n))
		}
	}
	c.giveUp(t, all)
}

// assigned is Sink.assigned.
func (c *sinkSession) assigned(t *task, assigned []tp) {
	for _, n := range assigned {
		c.client.paused[n] = true
	}
	t.lock(&c.decoding)
	defer c.decoding.unlock()
	member := c.client.member
	for _, p := range c.parts {
		if p.member != member && !c.off[memberRemembered] {
			c.stop(errExpelled)
			return
		}
	}
	var parts []*part
	for _, n := range assigned {
		p := &part{tp: n, member: member, has: map[*dest]int64{}, done: map[*dest]int64{}}
		for _, d := range c.dests {
			if slices.Contains(c.w.tablesOf(n), d.table) {
				p.dests = append(p.dests, d)
			}
		}
		if old := c.parts[n]; old != nil {
			old.gone = true
		}
		c.parts[n] = p
		parts = append(parts, p)
	}
	if len(parts) > 0 && !c.stopped {
		c.spawn("take-over", func(t *task) { c.takeOver(t, parts) })
	}
}

// lost is Sink.lost.
func (c *sinkSession) lost(t *task, lost []tp) {
	t.lock(&c.decoding)
	defer c.decoding.unlock()
	for _, n := range lost {
		c.forget(c.parts[n])
	}
	c.changed.give()
}

func (c *sinkSession) forget(p *part) {
	if p == nil || c.parts[p.tp] != p {
		return
	}
	p.gone, p.active = true, false
	delete(c.parts, p.tp)
	b := c.block
	delete(b.next, p)
	for _, f := range b.fills {
		before := len(f.rows)
		f.dropGone()
		b.rows -= before - len(f.rows)
	}
}

// giveUp is Sink.giveUp.
func (c *sinkSession) giveUp(t *task, revoked []tp) {
	t.lock(&c.decoding)
	defer c.decoding.unlock()
	var parts []*part
	for _, n := range revoked {
		if p := c.parts[n]; p != nil {
			parts = append(parts, p)
		}
	}
	if len(parts) == 0 {
		return
	}
	if member := c.client.member; slices.ContainsFunc(parts, func(p *part) bool { return p.member != member }) && !c.off[memberRemembered] {
		c.stop(errExpelled)
		for _, p := range parts {
			c.forget(p)
		}
		return
	}
	c.enqueue()
	late := false
	c.s.after(drainWait, func() {
		late = true
		c.changed.give()
	})
	for !late && !c.stopped && c.atWork(parts, true) && !c.off[releaseWhenDone] {
		t.wait(&c.changed, 0)
	}
	for _, d := range c.dests {
		if d.cancel != nil && slices.ContainsFunc(parts, d.holds) {
			d.cancel.cancel()
		}
	}
	clean := map[*part]int64{}
	var order []*part
	for _, p := range parts {
		if p.active && (!c.atWork([]*part{p}, false) || c.off[releaseWhenDone]) {
			clean[p] = p.flushed(c.off)
			p.active = false
			order = append(order, p)
		} else {
			c.forget(p)
		}
	}
	c.changed.give()
	if len(clean) > 0 && t.tryLock(&c.commitMu, drainWait) {
		t.step("before release")
		_ = c.send(t, clean, released, lease{})
		c.commitMu.unlock()
	}
	for _, p := range order {
		c.forget(p)
	}
	c.changed.give()
}

func (c *sinkSession) atWork(parts []*part, working bool) bool {
	for _, d := range c.dests {
		if working && d.refused != nil {
			continue
		}
		if slices.ContainsFunc(parts, d.holds) {
			return true
		}
	}
	return false
}

// write is dest.run: the writer of a table.
func (c *sinkSession) write(t *task, d *dest) {
	backoff := time.Duration(0)
	for {
		for len(d.queue) == 0 && !c.stopped {
			t.wait(&c.changed, 0)
		}
		if c.stopped {
			return
		}
		e := d.queue[0]
		err := c.writeEntry(t, d, e)
		if err == nil || c.off[inOrder] && len(d.queue) > 1 {
			if err == nil {
				d.advance(e.next)
				d.queue = d.queue[1:]
			} else { // the mutation: what is refused goes to the end
				d.queue = append(d.queue[1:], e)
			}
			d.refused = nil
		} else if !c.stopped {
			d.refused = err
			c.pauseAll(d)
		}
		c.changed.give()
		if err == nil {
			backoff = 0
			c.requestCommit()
			continue
		}
		if c.stopped {
			return
		}
		backoff = min(max(2*backoff, 100*time.Millisecond), 5*time.Second)
		c.pause(t, backoff)
	}
}

// pause sleeps unless the session ends.
func (c *sinkSession) pause(t *task, d time.Duration) {
	for end := c.s.now + d; !c.stopped && c.s.now < end; {
		t.wait(&c.changed, end-c.s.now)
	}
}

// outcome mirrors the type of that name.
type outcome uint8

const (
	inserted outcome = iota
	nothing
	ended
	unknown
)

// writeEntry is dest.write.
func (c *sinkSession) writeEntry(t *task, d *dest, e *entryOf) error {
	for lates := 0; ; {
		limit, deadline, cancel, err := c.begin(t, d, e)
		if err != nil {
			return err
		}
		if e.empty() {
			return nil
		}
		t.step("begun")
		id := fmt.Sprintf("%s/%s/%d", d.table.name, c.p.name, c.w.unique())
		result, err := c.insert(t, d, e.fill, id, limit, deadline, cancel)
		d.cancel = nil
		if result == inserted {
			return nil
		}
		if errors.Is(err, errLate) {
			c.expire(limit)
			if lates++; lates < 3 {
				continue
			}
			return err
		}
		if result == nothing {
			return err
		}
		if c.stopped {
			return err
		}
		d.refused = err
		c.pauseAll(d)
		c.changed.give()
		there, rerr := c.resolve(t, d, e.fill, id, limit, result)
		for rerr != nil {
			c.pause(t, 200*time.Millisecond)
			if c.stopped {
				return rerr
			}
			there, rerr = c.resolve(t, d, e.fill, id, limit, result)
		}
		if there {
			return nil
		}
		if result == ended {
			return err
		}
	}
}

// begin is dest.begin.
func (c *sinkSession) begin(t *task, d *dest, e *entryOf) (limit time.Time, deadline time.Duration, cancel *canceler, err error) {
	t.step("before insert")
	for {
		if c.stopped {
			return limit, 0, nil, errCanceled
		}
		if !c.off[dropRowsOfGone] {
			e.fill.dropGone()
		}
		if e.empty() {
			return limit, 0, nil, nil
		}
		if c.off[insertWithLease] {
			c.lease = lease{epoch.Add(c.s.now + leaseLength), epoch.Add(c.s.now + leaseLength)}
			break
		}
		if c.lease.fits(c.local(), leaseLength/4) {
			break
		}
		c.requestCommit()
		t.wait(&c.changed, 0)
	}
	cancel = &canceler{}
	d.cancel = cancel
	return c.lease.until, c.lease.local.Add(answerWait).Sub(epoch), cancel, nil
}

// insert is dest.send.
func (c *sinkSession) insert(t *task, d *dest, f *fill, id string, limit time.Time, deadline time.Duration, cancel *canceler) (outcome, error) {
	ch := c.w.ch
	t.step("before prepare")
	_, err := call(t, &ch.server, "INSERT", max(0, deadline-c.s.now), cancel, func(answer func(struct{}, error)) {
		ch.prepare(id, d.table, leaseLength+answerWait, answer)
	})
	if err == nil && c.s.now >= deadline {
		err = errNoAnswer // the deadline of the connection
	}
	if err != nil {
		return nothing, err
	}
	t.step("before send")
	rows := slices.Clone(f.rows)
	_, err = call(t, &ch.server, "block", max(0, deadline-c.s.now), cancel, func(answer func(struct{}, error)) {
		ch.insert(c.p.name, id, rows, limit, answer)
	})
	switch {
	case err == nil:
		t.step("after send")
		return inserted, nil
	case errors.Is(err, errException):
		return ended, err
	case errors.Is(err, errLate):
		return nothing, err
	}
	return unknown, err
}

// resolve is dest.resolve.
func (c *sinkSession) resolve(t *task, d *dest, f *fill, id string, limit time.Time, result outcome) (there bool, err error) {
	if result == unknown && !c.off[resolveWaitsWriteBy] {
		if err := c.waitFor(t, limit); err != nil {
			return false, err
		}
	}
	if !c.off[resolveWaitsGone] {
		if err := c.waitGone(t, func(q *query) bool { return q.id == id }); err != nil {
			return false, err
		}
	}
	f.dropGone()
	if len(f.rows) == 0 {
		return true, nil
	}
	if c.off[resolveAsks] {
		return false, nil
	}
	last := f.rows[len(f.rows)-1]
	has, err := c.ask(t, d, map[tp]int64{last.tp: last.offset})
	if err != nil {
		return false, err
	}
	highest, ok := has[last.tp]
	return ok && highest >= last.offset, nil
}

func (c *sinkSession) expire(limit time.Time) {
	if !c.lease.until.After(limit) {
		c.lease = lease{}
	}
}

func (c *sinkSession) requestCommit() {
	c.wake = true
	c.wakeUp.give()
}

// keep is Sink.keep: the keeper.
func (c *sinkSession) keep(t *task) {
	for {
		if !c.wake && !c.stopped {
			t.wait(&c.wakeUp, leaseLength/3)
		}
		if c.stopped {
			return
		}
		c.wake = false
		err := c.commit(t, nil)
		if err == nil || c.stopped {
			continue
		}
		if c.off[keepRowsOnRefusedCommit] && !errors.Is(err, errClockBack) {
			c.block = newBlock()
		}
		wait := 100 * time.Millisecond
		if errors.Is(err, errClockBack) {
			wait = leaseLength
		}
		c.pause(t, wait)
		c.wake = true
	}
}

var errClockBack = errors.New("ClickHouse's clock went back")

// commit is Sink.commit.
func (c *sinkSession) commit(t *task, taking []*part) error {
	t.lock(&c.commitMu)
	defer c.commitMu.unlock()
	t.step("before commit")
	if c.stopped || c.draining && taking != nil {
		return errCanceled
	}
	at := map[*part]int64{}
	for _, p := range c.parts {
		if p.active {
			at[p] = p.flushed(c.off)
		}
	}
	for _, p := range taking {
		if !p.gone {
			at[p] = p.flushed(c.off)
		}
	}
	if len(at) == 0 {
		return nil
	}
	local := c.local()
	var asked time.Time
	var err error
	if !c.off[clockBeforeCommit] {
		if asked, err = c.now(t); err != nil {
			return err
		}
		if c.sink.asked.After(asked) && !c.off[clockNeverBack] {
			return errClockBack
		}
		c.sink.asked = asked
	}
	t.step("clock read")
	l := lease{until: asked.Add(leaseLength), local: local.Add(leaseLength)}
	if err := c.send(t, at, metaHeld, l); err != nil {
		return err
	}
	if c.off[clockBeforeCommit] {
		t.step("committed")
		local = c.local()
		if asked, err = c.now(t); err != nil {
			return err
		}
		l = lease{until: asked.Add(leaseLength), local: local.Add(leaseLength)}
		c.w.grants[grant{c.p.name, l.until}] = true
	}
	c.lease = l
	for p, offset := range at {
		p.committed = offset
	}
	c.changed.give()
	return nil
}

// send is Sink.send: one OffsetCommit, fenced by the generation.
func (c *sinkSession) send(t *task, at map[*part]int64, metadata string, l lease) error {
	id, generation := c.client.member, c.client.generation
	t.step("commit made")
	offsets := map[tp]commit{}
	for _, p := range slices.SortedFunc(maps.Keys(at), func(a, b *part) int { return cmp.Compare(a.tp, b.tp) }) {
		switch {
		case p.gone && !c.off[goneNotCommitted]:
			return errCanceled
		case p.member != id && !c.off[memberRemembered]:
			c.stop(errExpelled)
			return errExpelled
		}
		offsets[p.tp] = commit{at[p], metadata, l.until}
	}
	who := c.p
	_, err := call(t, c.w.kafka, "OffsetCommit", leaseLength, nil, func(answer func(struct{}, error)) {
		c.w.group.commitOffsets(who, id, generation, offsets, func(_ struct{}, err error) {
			if err == nil && metadata == metaHeld {
				c.w.grants[grant{who.name, l.until}] = true
			}
			answer(struct{}{}, err)
		})
	})
	if errors.Is(err, errFencedInstance) {
		c.stop(err)
	}
	return err
}

// takeOver is Sink.takeOver.
func (c *sinkSession) takeOver(t *task, parts []*part) {
	start := c.s.now
	var begun time.Time
	for {
		parts = slices.DeleteFunc(parts, func(p *part) bool { return p.gone })
		if len(parts) == 0 || c.stopped {
			return
		}
		var done []*part
		var err error
		if begun.IsZero() {
			begun, err = c.now(t)
		}
		if err == nil {
			done, err = c.tryTakeOver(t, parts, begun, start)
		}
		parts = slices.DeleteFunc(parts, func(p *part) bool { return slices.Contains(done, p) })
		if err != nil && !c.stopped {
			c.pause(t, 200*time.Millisecond)
		}
	}
}

// tryTakeOver is Sink.tryTakeOver.
func (c *sinkSession) tryTakeOver(t *task, parts []*part, begun time.Time, start time.Duration) (done []*part, err error) {
	var of []tp
	for _, p := range parts {
		of = append(of, p.tp)
	}
	commits, err := call(t, c.w.kafka, "OffsetFetch", leaseLength, nil, func(answer func(map[tp]commit, error)) {
		c.w.group.fetchOffsets(of, true, answer)
	})
	if err != nil {
		return nil, err
	}
	var held, free []*part
	end := begun.Add(leaseLength)
	for _, p := range parts {
		at := commits[p.tp]
		p.committed = at.offset
		if at.metadata == released {
			free = append(free, p)
		} else {
			held = append(held, p)
			if at.until.After(end) && !c.off[takeOverReadsLease] {
				end = at.until
			}
		}
	}
	if len(free) > 0 {
		if done, err = c.activate(t, free); err != nil {
			return done, err
		}
	}
	if len(held) == 0 {
		return done, nil
	}
	if !c.off[takeOverWaitsLease] {
		if !c.off[takeOverOwnClock] {
			c.pause(t, start+leaseLength-c.s.now)
		}
		if err := c.waitFor(t, end); err != nil {
			return done, err
		}
	}
	if !c.off[takeOverWaitsGone] {
		for _, d := range c.destsOf(held) {
			ids, err := c.running(t, d)
			if err != nil {
				return done, err
			}
			if err := c.waitGone(t, func(q *query) bool { return slices.Contains(ids, q.id) }); err != nil {
				return done, err
			}
		}
	}
	more, err := c.activate(t, held)
	return append(done, more...), err
}

func (c *sinkSession) destsOf(parts []*part) []*dest {
	var all []*dest
	for _, d := range c.dests {
		if slices.ContainsFunc(parts, func(p *part) bool { return slices.Contains(p.dests, d) }) {
			all = append(all, d)
		}
	}
	return all
}

// activate is Sink.activate.
func (c *sinkSession) activate(t *task, parts []*part) ([]*part, error) {
	t.step("before ask")
	for _, d := range c.destsOf(parts) {
		from := map[tp]int64{}
		for _, p := range parts {
			if slices.Contains(p.dests, d) {
				from[p.tp] = p.committed
			}
		}
		has, err := c.ask(t, d, from)
		if err != nil {
			return nil, err
		}
		for _, p := range parts {
			if highest, ok := has[p.tp]; ok && !c.off[tableDecides] {
				p.has[d] = highest + 1
			}
		}
	}
	for _, p := range parts {
		p.next = p.committed
		for _, d := range p.dests {
			p.done[d] = p.committed
		}
	}
	if !c.off[heldBeforeInsert] {
		if err := c.commit(t, parts); err != nil {
			return nil, err
		}
	}
	var active []*part
	for _, p := range parts {
		if p.gone {
			continue
		}
		p.active = true
		active = append(active, p)
		delete(c.client.paused, p.tp)
	}
	c.changed.give()
	return active, nil
}

// ask is Sink.ask.
func (c *sinkSession) ask(t *task, d *dest, from map[tp]int64) (map[tp]int64, error) {
	return call(t, &c.w.ch.server, "ask", leaseLength, nil, func(answer func(map[tp]int64, error)) {
		has := map[tp]int64{}
		for n, offset := range from {
			if highest, ok := d.table.highest[n]; ok && highest >= offset {
				has[n] = highest
			}
		}
		answer(has, nil)
	})
}

func (c *sinkSession) now(t *task) (time.Time, error) {
	return call(t, &c.w.ch.server, "now", leaseLength, nil, func(answer func(time.Time, error)) { answer(c.w.ch.clock(), nil) })
}

// waitFor is Sink.waitFor.
func (c *sinkSession) waitFor(t *task, end time.Time) error {
	for {
		now, err := c.now(t)
		if err != nil {
			return err
		}
		left := end.Sub(now)
		if left < 0 {
			return nil
		}
		c.pause(t, min(left+time.Millisecond, leaseLength))
		if c.stopped {
			return errCanceled
		}
	}
}

// running is dest.inserts.
func (c *sinkSession) running(t *task, d *dest) ([]string, error) {
	return call(t, &c.w.ch.server, "system.processes", leaseLength, nil, func(answer func([]string, error)) {
		var ids []string
		for id, q := range c.w.ch.processes {
			if q.table == d.table {
				ids = append(ids, id)
			}
		}
		answer(ids, nil)
	})
}

// waitGone is dest.waitGone.
func (c *sinkSession) waitGone(t *task, matches func(*query) bool) error {
	start, killed := c.s.now, time.Duration(0)
	for {
		n, err := call(t, &c.w.ch.server, "system.processes", leaseLength, nil, func(answer func(int, error)) { answer(c.w.ch.running(matches), nil) })
		if err != nil || n == 0 {
			return err
		}
		if c.s.now-start > killAfter && c.s.now-killed > killAfter {
			killed = c.s.now
			_, _ = call(t, &c.w.ch.server, "KILL QUERY", leaseLength, nil, func(answer func(struct{}, error)) {
				c.w.ch.kill(matches)
				answer(struct{}{}, nil)
			})
		}
		c.pause(t, 50*time.Millisecond)
		if c.stopped {
			return errCanceled
		}
	}
}
