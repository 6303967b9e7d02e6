package simulation

import "time"

// plagues are what goes wrong in a run: not everything in every run, so that what belongs together meets more often.
type plagues struct {
	s     *sim
	kinds []func()
}

// add lets half of the runs have a kind.
func (c *plagues) add(kind func()) {
	if c.s.chance(0.5) {
		c.kinds = append(c.kinds, kind)
	}
}

// plagues are those of processes and their requests: a process stands still or dies, at any moment or at one of a few steps of this run, and
// requests lie on the way, as their sender knows or not.
func (s *sim) plagues(steps, requests []string, kill func(*proc), victim func() *proc) *plagues {
	c := &plagues{s: s}
	var atSteps, ofRequests []string
	for range 4 {
		atSteps = append(atSteps, steps[s.rng.IntN(len(steps))])
		ofRequests = append(ofRequests, requests[s.rng.IntN(len(requests))])
	}
	lay := func(spring func(p *proc)) {
		s.armed = &trap{at: atSteps[s.rng.IntN(len(atSteps))], skip: s.rng.IntN(3), spring: spring}
	}
	stop := func(p *proc) {
		d := s.pause()
		s.note(p.name, "STOPPED", "for %s", d)
		p.stopped = s.now + d
	}
	c.add(func() { lay(stop) })
	c.add(func() { lay(kill) })
	c.add(func() { stop(victim()) })
	c.add(func() { kill(victim()) })
	c.add(func() {
		s.armed = &trap{at: ofRequests[s.rng.IntN(len(ofRequests))], skip: s.rng.IntN(2), hold: s.pause(), breaks: s.chance(0.5)}
	})
	return c
}

// pause is how long something stands still: about as long as the protocol waits, or much longer.
func (s *sim) pause() time.Duration {
	switch n := s.rng.IntN(100); {
	case n < 30:
		return s.between(0, 8*time.Second)
	case n < 70:
		return s.between(8*time.Second, 16*time.Second)
	case n < 98:
		return s.between(16*time.Second, 90*time.Second)
	default:
		return s.between(90*time.Second, 2*time.Hour)
	}
}
