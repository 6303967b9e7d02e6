package bench

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What /proc says about a process. Where there is none (outside Linux) everything is 0, and the figures made of it are left out.

// ticks is how many of the kernel's units of CPU time make a second: USER_HZ, 100 on every Linux that Go runs on.
const ticks = 100

// cpuTime is the user and system time that a process has used.
func cpuTime(pid int) time.Duration {
	fields := stat(pid)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * time.Second / ticks
}

// stat are the fields of /proc/PID/stat behind the process's name: state, parent, ...
func stat(pid int) []string {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil
	}
	_, behind, _ := strings.Cut(string(text), ") ")
	return strings.Fields(behind)
}

// ownChild is the child of this process that runs this process's own program: the ClickHouse of test/stack. 0: there is none.
func ownChild() int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	self, _ := os.Readlink("/proc/self/exe")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		fields := stat(pid)
		if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		if exe, _ := os.Readlink(filepath.Join("/proc", entry.Name(), "exe")); exe == self {
			return pid
		}
	}
	return 0
}

// resident is the memory of a process that is in RAM, in MB (10^6 bytes).
func resident(pid int) float64 {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kib * 1024 / 1e6
		}
	}
	return 0
}

// watchResident samples a process's memory until the returned function is called, which says the most that was seen.
func watchResident(pid int) (most func() float64) {
	var highest float64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			highest = max(highest, resident(pid))
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return func() float64 {
		close(stop)
		wg.Wait()
		return highest
	}
}
