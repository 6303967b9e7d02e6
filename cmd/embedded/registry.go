package embedded

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/sr/srfake"
)

// journal makes srfake remember. srfake gives out ids and versions by nothing but the order of the requests that
// write, so the journal keeps these requests, one JSON object a line, and a start plays them back before it
// listens: every id is what it was, deleted versions and compatibility levels included.
//
// A request is in the file, and the file on disk, before its answer goes out, and until then no other request
// sees its effect: an id that anyone has seen belongs to its schema for good.
type journal struct {
	registry http.Handler
	file     *os.File
	mu       sync.RWMutex // held for reading by requests that read
	failed   func(error)  // the file cannot be written: the process must end, or answers would lie
}

// entry is one request that changed something.
type entry struct {
	Method string          `json:"method"`
	Path   string          `json:"path"` // escaped, with the query
	Body   json.RawMessage `json:"body,omitempty"`
}

// openJournal plays the journal in path back. An unfinished last line is cut off: its answer was never given.
func openJournal(path string, failed func(error)) (*journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	j := &journal{registry: srfake.NewRegistry().Handler(), file: f, failed: failed}
	end, err := j.play(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if err := errors.Join(f.Truncate(end), seekTo(f, end), f.Sync(), syncDir(filepath.Dir(path))); err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

// play returns the length of the part of the file that is whole.
func (j *journal) play(f io.Reader) (end int64, err error) {
	r := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return end, nil
		}
		if err != nil {
			return 0, err
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return 0, fmt.Errorf("line %d: %w", n, err)
		}
		if res := j.ask(e); res.Code/100 != 2 {
			return 0, fmt.Errorf("line %d: %s %s was accepted once and is now refused: %s", n, e.Method, e.Path, res.Body)
		}
		end += int64(len(line))
	}
}

// ask puts a request to the registry itself.
func (j *journal) ask(e entry) *httptest.ResponseRecorder {
	req := httptest.NewRequest(e.Method, e.Path, bytes.NewReader(e.Body))
	req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	res := httptest.NewRecorder()
	j.registry.ServeHTTP(res, req)
	return res
}

func (j *journal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		j.mu.RLock()
		defer j.mu.RUnlock()
		j.registry.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	before := j.content()
	e := entry{Method: r.Method, Path: r.URL.RequestURI(), Body: body}
	res := j.ask(e)
	// Look-ups and compatibility checks are POSTs too, and roles register what is known at each start.
	if res.Code/100 == 2 && (r.Method != http.MethodPost || !bytes.Equal(before, j.content())) {
		if err := j.keep(e); err != nil {
			http.Error(w, "the registry cannot write its journal: "+err.Error(), http.StatusInternalServerError)
			j.failed(err)
			return
		}
	}
	for k, v := range res.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(res.Code)
	_, _ = w.Write(res.Body.Bytes()) // a caller that has gone asks again
}

// content is every version that the registry has.
func (j *journal) content() []byte {
	return j.ask(entry{Method: http.MethodGet, Path: "/schemas?deleted=true"}).Body.Bytes()
}

func (j *journal) keep(e entry) error {
	if len(e.Body) == 0 {
		e.Body = nil
	}
	line, err := json.Marshal(e) // compacts the body into one line
	if err != nil {
		return err
	}
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return err
	}
	return j.file.Sync()
}

func runRegistry(p *process) error {
	if err := os.MkdirAll(p.dataDir(), 0o755); err != nil {
		return err
	}
	broken := make(chan error, 1)
	j, err := openJournal(filepath.Join(p.dataDir(), "journal.jsonl"), func(err error) {
		select {
		case broken <- err:
		default: // one cause is enough
		}
	})
	if err != nil {
		return err
	}
	defer j.file.Close()
	l, err := p.listen(p.spec.Addrs[0])
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: j, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	p.report(report{State: stateListening, Addrs: []string{l.Addr().String()}})
	select {
	case <-p.parentGone:
	case err := <-broken:
		return fmt.Errorf("write journal: %w", err)
	case err := <-served:
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if srv.Shutdown(ctx) != nil { // a request that hangs is not waited for: what was answered is on disk
		return srv.Close()
	}
	return nil
}

// registryAnswers asks the registry for its subjects.
func registryAnswers(ctx context.Context, addrs []string) error {
	return httpOK(ctx, "http://"+addrs[0]+"/subjects")
}

// httpOK asks for a URL and wants 200.
func httpOK(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = true // an idle connection would hold up a part's end
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, res.Status)
	}
	return nil
}

func seekTo(f *os.File, at int64) error {
	_, err := f.Seek(at, io.SeekStart)
	return err
}

// syncDir makes a new file's name as durable as its content.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
