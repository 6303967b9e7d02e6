package clickhouse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
	ch "github.com/ClickHouse/clickhouse-go/v2"
)

// wire is a connection to ClickHouse that does one thing: INSERT one block. The driver that everything else uses would copy each value
// twice, into columns that it makes anew for every block; here the columns' memory goes to the socket as it lies.
type wire struct {
	conn    net.Conn
	out     *proto.Writer
	body    *proto.Writer // of blocks: out, or one that compresses
	frames  *frames       // below body; nil: nothing is compressed
	in      *proto.Reader
	version int // of the protocol
	used    time.Time
}

// blockColumn is a column of a block as it is sent.
type blockColumn struct {
	name, typ string
	write     func(*proto.Writer)
}

// wireIdle is after how long a connection is not used again: servers end idle ones, after an hour by default.
const wireIdle = time.Minute

// dialWire connects to the first address that answers and logs in.
func (c *Config) dialWire(ctx context.Context, addrs []string) (*wire, error) {
	opts, err := c.options(addrs)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, addr := range addrs {
		conn, err := opts.DialContext(ctx, addr)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		w := newWire(conn, opts.Compression != nil)
		if err := w.hello(ctx, c); err != nil {
			w.close()
			return nil, fmt.Errorf("log in to ClickHouse at %s: %w", addr, err)
		}
		return w, nil
	}
	return nil, errors.Join(errs...)
}

func newWire(conn net.Conn, compressed bool) *wire {
	w := &wire{conn: conn, out: proto.NewWriter(conn, new(proto.Buffer)), in: proto.NewReader(conn), used: time.Now()}
	w.body = w.out
	if compressed {
		w.frames = &frames{to: conn, lz4: compress.NewWriter(compress.LevelZero, compress.LZ4)}
		w.body = proto.NewWriter(w.frames, new(proto.Buffer))
	}
	return w
}

func (w *wire) close() { _ = w.conn.Close() } // whatever it says, the line is not used again

// hello logs in.
func (w *wire) hello(ctx context.Context, c *Config) error {
	defer context.AfterFunc(ctx, w.close)()
	w.version = proto.Version
	w.out.ChainBuffer(func(b *proto.Buffer) {
		proto.ClientHello{Name: "counterfoil", Major: 1, ProtocolVersion: proto.Version, User: c.User, Password: c.Password}.Encode(b)
	})
	if _, err := w.out.Flush(); err != nil {
		return err
	}
	if err := w.until(proto.ServerCodeHello); err != nil {
		return err
	}
	var server proto.ServerHello
	if err := server.DecodeAware(w.in, w.version); err != nil {
		return err
	}
	w.version = min(w.version, server.Revision)
	if proto.FeatureAddendum.In(w.version) {
		w.out.ChainBuffer(func(b *proto.Buffer) { b.PutString("") }) // no quota key; it goes with what is sent next
	}
	return nil
}

// begin sends an INSERT and returns when the server waits for its block. Nothing is inserted when it fails.
func (w *wire) begin(ctx context.Context, sql, id string, settings map[string]string) error {
	defer context.AfterFunc(ctx, w.close)()
	q := proto.Query{ID: id, Body: sql, Stage: proto.StageComplete, Info: proto.ClientInfo{
		ProtocolVersion: w.version, Major: 1, Interface: proto.InterfaceTCP, Query: proto.ClientQueryInitial,
		InitialQueryID: id, InitialAddress: w.conn.LocalAddr().String(), ClientName: "counterfoil",
	}}
	if w.frames != nil {
		q.Compression = proto.CompressionEnabled
	}
	for k, v := range settings {
		q.Settings = append(q.Settings, proto.Setting{Key: k, Value: v, Important: true})
	}
	w.out.ChainBuffer(func(b *proto.Buffer) { q.EncodeAware(b, w.version) })
	if err := w.block(nil, 0); err != nil { // no external tables
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.until(proto.ServerCodeData); err != nil {
		return err
	}
	return w.skipBlock(&proto.ColInfoInput{}, true) // the columns that we named
}

// send sends the block and returns when the server has answered. An error that is no *ch.Exception leaves open whether the rows are in.
func (w *wire) send(ctx context.Context, columns []blockColumn, rows int) error {
	defer context.AfterFunc(ctx, w.close)()
	if err := w.block(columns, rows); err != nil {
		return err
	}
	if err := w.block(nil, 0); err != nil { // no more
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.used = time.Now()
	return w.until(proto.ServerCodeEndOfStream)
}

// block writes a block; one without columns ends what came before. The columns' memory is read until flush.
func (w *wire) block(columns []blockColumn, rows int) error {
	w.out.ChainBuffer(func(b *proto.Buffer) {
		proto.ClientCodeData.Encode(b)
		proto.ClientData{}.EncodeAware(b, w.version)
	})
	if w.frames != nil {
		if _, err := w.out.Flush(); err != nil {
			return err
		}
	}
	w.body.ChainBuffer(func(b *proto.Buffer) {
		proto.Block{Info: proto.BlockInfo{BucketNum: -1}, Columns: len(columns), Rows: rows}.EncodeAware(b, w.version)
	})
	for _, c := range columns {
		w.body.ChainBuffer(func(b *proto.Buffer) {
			b.PutString(c.name)
			b.PutString(c.typ)
			if proto.FeatureCustomSerialization.In(w.version) {
				b.PutBool(false)
			}
		})
		c.write(w.body)
	}
	if w.frames == nil {
		return nil
	}
	if _, err := w.body.Flush(); err != nil {
		return err
	}
	return w.frames.end()
}

func (w *wire) flush() error {
	_, err := w.out.Flush()
	return err
}

// until reads packets up to one that begins with the code. What else a server tells of an INSERT is passed over.
func (w *wire) until(end proto.ServerCode) error {
	for {
		n, err := w.in.UVarInt()
		if err != nil {
			return fmt.Errorf("read ClickHouse's answer: %w", err)
		}
		switch code := proto.ServerCode(n); code {
		case end:
			return nil
		case proto.ServerCodeException:
			var e proto.Exception
			if err := e.DecodeAware(w.in, w.version); err != nil {
				return fmt.Errorf("read ClickHouse's error: %w", err)
			}
			return &ch.Exception{Code: int32(e.Code), Name: e.Name, Message: e.Message, StackTrace: e.Stack}
		case proto.ServerCodeProgress:
			err = new(proto.Progress).DecodeAware(w.in, w.version)
		case proto.ServerCodeProfile:
			err = new(proto.Profile).DecodeAware(w.in, w.version)
		case proto.ServerCodeTableColumns:
			err = new(proto.TableColumns).DecodeAware(w.in, w.version)
		case proto.ServerProfileEvents:
			err = w.skipBlock(new(proto.ProfileEvents).Result(), false)
		case proto.ServerCodeLog:
			err = w.skipBlock(new(proto.Logs).Result(), false)
		default:
			return fmt.Errorf("ClickHouse answers an INSERT with packet %d", n)
		}
		if err != nil {
			return fmt.Errorf("read ClickHouse's answer: %w", err)
		}
	}
}

// skipBlock reads a block of which nothing is used.
func (w *wire) skipBlock(into proto.Result, compressible bool) error {
	if _, err := w.in.Str(); err != nil { // name of an external table
		return fmt.Errorf("read a block: %w", err)
	}
	if compressible && w.frames != nil {
		w.in.EnableCompression()
		defer w.in.DisableCompression()
	}
	var b proto.Block
	if err := b.DecodeBlock(w.in, w.version, into); err != nil {
		return fmt.Errorf("read a block: %w", err)
	}
	return nil
}

// frames compresses what is written, piece by piece.
type frames struct {
	to      net.Conn
	lz4     *compress.Writer
	pending bytes.Buffer
}

// frameSize is how much goes into one compressed piece, as ClickHouse's own clients have it.
const frameSize = 1 << 20

func (f *frames) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), frameSize-f.pending.Len())
		f.pending.Write(p[:n])
		p, written = p[n:], written+n
		if f.pending.Len() == frameSize {
			if err := f.end(); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// end sends what is pending as a piece.
func (f *frames) end() error {
	if f.pending.Len() == 0 {
		return nil
	}
	if err := f.lz4.Compress(f.pending.Bytes()); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	f.pending.Reset()
	_, err := f.to.Write(f.lz4.Data)
	return err
}
