package embedded

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/ebitengine/purego"
)

// clickhouseLocal runs clickhouse-local, with args as its arguments, from the shared library and returns when it
// ends. It uses the library's chdb_query_cmdline, the only entry that may listen for connections.
//
// A process can call it once: the engine keeps global state.
func clickhouseLocal(library string, args ...string) error {
	lib, err := purego.Dlopen(library, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return fmt.Errorf("load %s: %w", library, err)
	}
	for _, name := range []string{"chdb_query_cmdline", "chdb_result_error"} {
		if _, err := purego.Dlsym(lib, name); err != nil { // RegisterLibFunc would panic
			return fmt.Errorf("%s is not a libchdb that can listen: %w", library, err)
		}
	}
	var queryCmdline func(argc int32, argv unsafe.Pointer) uintptr
	var resultError func(result uintptr) string
	purego.RegisterLibFunc(&queryCmdline, lib, "chdb_query_cmdline")
	purego.RegisterLibFunc(&resultError, lib, "chdb_result_error")

	// argv is read for as long as the call runs, outside the garbage collector's sight.
	var pins runtime.Pinner
	defer pins.Unpin()
	argv := make([]*byte, 0, len(args)+2)
	for _, a := range append([]string{"clickhouse-local"}, args...) {
		c, err := syscall.BytePtrFromString(a)
		if err != nil {
			return fmt.Errorf("argument %q: %w", a, err)
		}
		pins.Pin(c)
		argv = append(argv, c)
	}
	argv = append(argv, nil)
	pins.Pin(&argv[0])

	result := queryCmdline(int32(len(argv)-1), unsafe.Pointer(&argv[0]))
	if result == 0 {
		return errors.New("no result, see the log")
	}
	if text := resultError(result); text != "" {
		return errors.New(text)
	}
	return nil
}
