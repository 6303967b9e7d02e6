package ingest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/counterfoil/counterfoil/ingest"
)

// Until it is fixed from where the result topics are read, an outcome could be missed: the service is not ready, and takes no batch.
func TestNothingIsAcceptedBeforeTheResultTopicsAreRead(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	n := &wire{}
	var asked atomic.Bool
	n.set(func(k kmsg.Key) fate {
		if k == kmsg.ListOffsets {
			asked.Store(true)
			return drop
		}
		return pass
	})
	s, err := ingest.New(config(t, nil), ingest.Deps{
		Kafka: append(w.broker.Opts(), n.opt()), Registry: w.registry, Keys: w.keys, Reports: w.reports, Log: logger(t), Metrics: prometheus.NewRegistry(),
	})
	check(t, err)
	register(s)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		stop()
		check(t, <-ended)
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		// The producers are connected, and the ends of the result topics were asked for.
		if problem := s.Ready(); asked.Load() && problem != nil && !strings.Contains(problem.Error(), "connected") {
			if !strings.Contains(problem.Error(), "result topics") {
				t.Errorf("ready says nothing of the result topics: %v", problem)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not come to ask for the ends of the result topics: %v", s.Ready())
		}
	}
	if status, body, header := do(t, s, "POST", "/test", key, []testItem{{Account: "1"}}); status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("a batch before that: status %d: %s", status, body)
	}
	n.set(func(kmsg.Key) fate { return pass })
	for deadline := time.Now().Add(10 * time.Second); s.Ready() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(s.Ready())
		}
	}
	if status, a := post(t, s, key, testItem{Account: "1"}); status != 200 {
		t.Errorf("a batch after that: status %d, %v", status, a)
	}
}

// Whoever reads the log gets no key and no token, wherever a caller put it.
func TestTheLogHoldsNoSecrets(t *testing.T) {
	keys := &keyTable{}
	var log bytes.Buffer
	s, err := ingest.New(config(t, nil), ingest.Deps{Keys: keys, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), Metrics: prometheus.NewRegistry()})
	check(t, err)
	key := keys.add(t, "demo", ingest.KeyOptions{})
	id, secret, _ := strings.Cut(key, ".")
	var token string
	s.Mux().HandleFunc("POST /door", func(w http.ResponseWriter, r *http.Request) {
		caller, err := s.Authenticate(r, ingest.DoorCRM, ingest.KeyCredential(r.URL.Query().Get("api_key")))
		if err == nil {
			token = s.IssueToken(caller, "")
			var body struct{ Token string }
			check(t, json.NewDecoder(r.Body).Decode(&body))
			_, err = s.AuthenticateToken(r, ingest.DoorCRM, body.Token)
		}
		if err != nil {
			ingest.NoteError(r, err)
			ingest.WriteProblem(w, err)
		}
	})
	statuses := map[int]int{}
	send := func(target string, header map[string]string, body string) {
		r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(body))
		for name, value := range header {
			r.Header.Set(name, value)
		}
		answer := httptest.NewRecorder()
		s.Handler().ServeHTTP(answer, r)
		statuses[answer.Code]++
	}
	for range 2 { // the second time with a good token
		body := `{"token":"` + token + `"}`
		send("/door?api_key="+key, nil, body)
		send("/door", map[string]string{"X-Api-Key": key}, body)
		send("/door", map[string]string{"Authorization": "Bearer " + key}, body)
		send("/door", map[string]string{"Authorization": basic(id, secret)}, body)
		send("/door?api_key="+id+"x."+secret, nil, body)
		send("/nowhere?api_key="+key, nil, body)
	}
	if statuses[200] == 0 || statuses[401] == 0 || statuses[404] == 0 {
		t.Errorf("statuses %v: the requests show little", statuses)
	}
	text := log.String()
	if strings.Count(text, "msg=request") < 12 {
		t.Errorf("not every request is in the log:\n%s", text)
	}
	for what, hidden := range map[string]string{"secret": secret, "token": token, "basic": strings.TrimPrefix(basic(id, secret), "Basic ")} {
		if strings.Contains(text, hidden) {
			t.Errorf("the %s is in the log:\n%s", what, text)
		}
	}
}
