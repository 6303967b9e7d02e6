package simulation

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"time"
)

// sim is one run: a clock, a queue of what happens next, and chance, all of it drawn from one seed. Nothing in a run depends on anything
// else, so that a seed repeats its run.
type sim struct {
	seed  uint64
	rng   *rand.Rand
	now   time.Duration // true time since the run began; what copies and servers read of it may be wrong
	queue []planned     // a heap
	order int
	// events are those that the queue plans, and spare the free places among them.
	events []event
	spare  []int
	tasks  []*task

	armed  *trap
	faults bool // requests and answers get lost, and late; no more once the run is healing

	traced bool
	trace  []string
	wrong  *violation
}

// violation is a broken promise.
type violation struct {
	kind string // what was broken: one of the constants below
	text string
}

const (
	doubled   = "doubled"   // a row is in a table twice, an item has two outcomes
	stranger  = "stranger"  // a row or an outcome of what was never committed
	missing   = "missing"   // a row or an outcome is not there at the end
	leaseless = "leaseless" // ClickHouse took a block of a copy without a valid lease
	disorder  = "disorder"  // an outcome that the sequential model does not have
	blind     = "blind"     // an item was judged without a reference that was acknowledged before it was sent
	stuck     = "stuck"     // the run does not come to its end though everything is healed
)

func newSim(seed uint64, traced bool) *sim {
	return &sim{seed: seed, rng: rand.New(rand.NewPCG(seed, 0x636f756e746572)), traced: traced}
}

// violate notes the first broken promise of the run; the run ends there.
func (s *sim) violate(kind, format string, args ...any) {
	if s.wrong == nil {
		s.wrong = &violation{kind, fmt.Sprintf(format, args...)}
		s.note("", "VIOLATION", "%s: %s", kind, s.wrong.text)
	}
}

// note adds a line to the trace. Callers with costly arguments look at traced first.
func (s *sim) note(actor, what, format string, args ...any) {
	if s.traced {
		s.trace = append(s.trace, strings.TrimRight(fmt.Sprintf("%12.6f  %-22s %-24s %s", s.now.Seconds(), actor, what, fmt.Sprintf(format, args...)), " "))
	}
}

// event is something that happens: a task goes on, or do is called.
type event struct {
	task *task
	turn int // of the task: one that has gone on meanwhile is not woken
	do   func()
}

// planned is the place of an event in the queue. Those of one moment happen in the order in which they were planned.
type planned struct {
	at    time.Duration
	order int
	event int // in sim.events
}

func (p *planned) before(o *planned) bool {
	return p.at < o.at || p.at == o.at && p.order < o.order
}

func (s *sim) push(at time.Duration, e event) {
	place := len(s.events)
	if n := len(s.spare); n > 0 {
		place = s.spare[n-1]
		s.spare = s.spare[:n-1]
		s.events[place] = e
	} else {
		s.events = append(s.events, e)
	}
	added := planned{at, s.order, place}
	s.order++
	s.queue = append(s.queue, added)
	i := len(s.queue) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !added.before(&s.queue[up]) {
			break
		}
		s.queue[i] = s.queue[up]
		i = up
	}
	s.queue[i] = added
}

func (s *sim) pop() (time.Duration, event) {
	first, last := s.queue[0], s.queue[len(s.queue)-1]
	s.queue = s.queue[:len(s.queue)-1]
	for i, n := 0, len(s.queue); n > 0; {
		down := 2*i + 1
		if down+1 < n && s.queue[down+1].before(&s.queue[down]) {
			down++
		}
		if down >= n || !s.queue[down].before(&last) {
			s.queue[i] = last
			break
		}
		s.queue[i] = s.queue[down]
		i = down
	}
	e := s.events[first.event]
	s.events[first.event] = event{}
	s.spare = append(s.spare, first.event)
	return first.at, e
}

// after plans do.
func (s *sim) after(d time.Duration, do func()) { s.push(s.now+d, event{do: do}) }

// maxEvents ends a run that goes round in circles.
const maxEvents = 20_000_000

// run lets things happen until done, a violation, or the end of time.
func (s *sim) run(end time.Duration, done func() bool) {
	defer func() {
		for _, t := range s.tasks {
			t.stop()
		}
	}()
	for n := 0; len(s.queue) > 0 && s.wrong == nil; n++ {
		if n%64 == 0 && done() {
			return
		}
		at, e := s.pop()
		if at > end || n == maxEvents {
			s.violate(stuck, "the run has not come to its end by %s (%d events)", s.now, n)
			return
		}
		s.now = at
		switch {
		case e.do != nil:
			e.do()
		case e.task.turn != e.turn || e.task.over:
		case e.task.p.dead:
			e.task.stop()
			e.task.over = true
		case e.task.p.stopped > s.now:
			s.push(e.task.p.stopped+s.jitter(), e)
		default:
			e.task.turn++
			if _, alive := e.task.next(); !alive {
				e.task.over = true
			}
		}
	}
}

// between is a random time.
func (s *sim) between(from, to time.Duration) time.Duration {
	return from + time.Duration(s.rng.Int64N(int64(to-from)+1))
}

func (s *sim) chance(p float64) bool { return s.rng.Float64() < p }

// jitter is what makes one order of things as likely as another.
func (s *sim) jitter() time.Duration {
	return time.Duration(s.rng.Int64N(int64(200 * time.Microsecond)))
}

// proc is a process: its tasks stop and die together.
type proc struct {
	name    string
	stopped time.Duration // until then nothing of it goes on (SIGSTOP, a virtual machine that stands still)
	dead    bool          // kill -9
}

// task is a thread of a process, written as straight code: wherever it waits, others go on.
type task struct {
	s     *sim
	p     *proc
	name  string
	turn  int
	over  bool
	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool
}

// killed unwinds a task whose process is dead.
type killed struct{}

// spawn starts a task of a process.
func (s *sim) spawn(p *proc, name string, f func(t *task)) {
	t := &task{s: s, p: p, name: name}
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			if r := recover(); r != nil && r != (killed{}) {
				panic(r)
			}
		}()
		t.yield = yield
		f(t)
	})
	if len(s.tasks) > 256 { // forget those that are over
		alive := s.tasks[:0]
		for _, t := range s.tasks {
			if !t.over {
				alive = append(alive, t)
			}
		}
		clear(s.tasks[len(alive):])
		s.tasks = alive
	}
	s.tasks = append(s.tasks, t)
	s.push(s.now+s.jitter(), event{task: t})
}

// park gives way until somebody wakes the task.
func (t *task) park() {
	if t.p.dead || !t.yield(struct{}{}) {
		panic(killed{})
	}
}

func (t *task) wakeAt(at time.Duration) { t.s.push(at, event{task: t, turn: t.turn}) }

func (t *task) sleep(d time.Duration) {
	t.wakeAt(t.s.now + d)
	t.park()
}

// step is a place between two steps of the real code where anything may come in between.
func (t *task) step(what string) {
	if t.s.traced {
		t.s.note(t.p.name+"/"+t.name, what, "")
	}
	if trap := t.s.armed; trap != nil && trap.at == what && trap.spring != nil {
		if trap.skip--; trap.skip < 0 {
			t.s.armed = nil
			trap.spring(t.p)
		}
	}
	t.sleep(t.s.jitter())
}

// trap is a fault that waits for the next process that comes to a step.
type trap struct {
	at     string
	skip   int // so many that come there are let by
	spring func(p *proc)
	// Without spring the request of that name is so long on its way, and its sender may believe at once that the connection is broken.
	hold   time.Duration
	breaks bool
}

// signal is what tasks wait for, as on a sync.Cond.
type signal struct{ waiting []*task }

// wait returns when the signal was given, or after the time, 0 for none; false: after the time.
func (t *task) wait(sig *signal, limit time.Duration) bool {
	if limit > 0 {
		t.wakeAt(t.s.now + limit)
	}
	sig.waiting = append(sig.waiting, t)
	t.park()
	for i, w := range sig.waiting {
		if w == t {
			sig.waiting = append(sig.waiting[:i], sig.waiting[i+1:]...)
			return false
		}
	}
	return true
}

// give wakes all that wait.
func (sig *signal) give() {
	for _, t := range sig.waiting {
		t.wakeAt(t.s.now + t.s.jitter())
	}
	sig.waiting = sig.waiting[:0]
}

// lock is a mutex.
type lock struct {
	held bool
	free signal
}

func (t *task) lock(l *lock) {
	for l.held {
		t.wait(&l.free, 0)
	}
	l.held = true
}

// tryLock is lock with a limit.
func (t *task) tryLock(l *lock, limit time.Duration) bool {
	end := t.s.now + limit
	for l.held {
		if t.s.now >= end {
			return false
		}
		t.wait(&l.free, end-t.s.now)
	}
	l.held = true
	return true
}

func (l *lock) unlock() {
	l.held = false
	l.free.give()
}

// server is the other end of requests.
type server struct {
	name string
	hung time.Duration // until then what arrives waits
	down time.Duration // until then nothing is taken and nothing answered
}

var (
	errNoAnswer = errors.New("no answer")
	errDown     = errors.New("connection refused")
	errCanceled = errors.New("canceled")
)

// latency of a message. Some are late, and some very.
func (s *sim) latency() time.Duration {
	d := s.between(100*time.Microsecond, 2*time.Millisecond)
	if s.faults {
		switch n := s.rng.IntN(1000); {
		case n < 2:
			d += s.between(time.Second, 20*time.Second)
		case n < 30:
			d += s.between(0, 500*time.Millisecond)
		}
	}
	return d
}

// lost says whether a message does not arrive.
func (s *sim) lost() bool { return s.faults && s.rng.IntN(300) == 0 }

// canceler breaks a request off at its sender's end; it goes on at the other.
type canceler struct {
	done bool
	sig  signal
}

func (c *canceler) cancel() {
	if c != nil && !c.done {
		c.done = true
		c.sig.give()
	}
}

// call sends a request and waits for its answer: serve is run when and where it arrives, whatever has become of the sender, and answers
// when it likes. The error is errNoAnswer when the answer has not come in time: the request may have been served, or may still be.
func call[T any](t *task, to *server, what string, limit time.Duration, cancel *canceler, serve func(answer func(T, error))) (T, error) {
	s := t.s
	if s.traced {
		s.note(t.p.name+"/"+t.name, what, "→ %s", to.name)
	}
	held, broken := t.spring(what)
	var got struct {
		done  bool
		value T
		err   error
	}
	if cancel == nil {
		cancel = &canceler{}
	}
	answer := func(value T, err error) {
		if s.lost() {
			s.note(to.name, what, "answer to %s is lost", t.p.name)
			return
		}
		if s.traced {
			s.note(to.name, what, "answers %s: %v %v", t.p.name, value, err)
		}
		s.after(s.latency(), func() {
			if !got.done {
				got.done, got.value, got.err = true, value, err
				cancel.sig.give()
			}
		})
	}
	var arrive func()
	arrive = func() {
		switch {
		case to.down > s.now:
			var none T
			if s.rng.IntN(4) > 0 {
				answer(none, errDown)
			}
		case to.hung > s.now:
			s.after(to.hung-s.now+s.jitter(), arrive)
		default:
			serve(answer)
		}
	}
	if s.lost() {
		s.note(to.name, what, "request of %s is lost", t.p.name)
	} else {
		s.after(s.latency()+held, arrive)
	}
	if broken {
		limit = min(limit, s.latency())
	}
	end := s.now + limit
	for !got.done && !cancel.done && s.now < end {
		t.wait(&cancel.sig, end-s.now)
	}
	switch {
	case got.done:
		return got.value, got.err
	case cancel.done:
		return got.value, errCanceled
	}
	return got.value, errNoAnswer
}

// spring lets a trap that waits for a request go off, when the request is on its way and before its answer; or the trap holds the request up.
func (t *task) spring(what string) (held time.Duration, broken bool) {
	trap := t.s.armed
	if trap == nil || trap.at != what {
		return 0, false
	}
	if trap.skip--; trap.skip >= 0 {
		return 0, false
	}
	t.s.armed = nil
	if trap.spring != nil {
		t.s.after(t.s.jitter(), func() { trap.spring(t.p) })
		return 0, false
	}
	t.s.note(t.p.name, "HELD UP", "%s for %s, the connection breaks: %t", what, trap.hold, trap.breaks)
	return trap.hold, trap.breaks
}
