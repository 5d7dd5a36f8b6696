// The design that whit began from, in Go on gorilla/websocket, without its bugs: each message goes from a read loop through a
// channel to its handler, and from there through another channel to a write loop.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const capacity = 1000

var errClosed = errors.New("the connection is closed")

type message struct {
	kind    int
	payload []byte
}

// Connection has three verbs: Read, Write and Close.
type Connection struct {
	conn   *websocket.Conn
	in     chan message
	out    chan message
	closed chan struct{}
	once   sync.Once
}

func newConnection(conn *websocket.Conn, heartbeat time.Duration) *Connection {
	c := &Connection{
		conn:   conn,
		in:     make(chan message, capacity),
		out:    make(chan message, capacity),
		closed: make(chan struct{}),
	}
	go c.readLoop()
	go c.writeLoop(heartbeat)
	return c
}

// Read gives the next message.
func (c *Connection) Read() (message, error) {
	select {
	case m := <-c.in:
		return m, nil
	case <-c.closed:
		return message{}, errClosed
	}
}

// Write queues a message.
func (c *Connection) Write(m message) error {
	select {
	case c.out <- m:
		return nil
	case <-c.closed:
		return errClosed
	}
}

// Close ends the connection; further calls change nothing.
func (c *Connection) Close() {
	c.once.Do(func() {
		close(c.closed)
		c.conn.Close()
	})
}

func (c *Connection) readLoop() {
	defer c.Close()
	for {
		kind, payload, err := c.conn.ReadMessage()
		if err != nil {
			return
		}
		select {
		case c.in <- message{kind, payload}:
		case <-c.closed:
			return
		}
	}
}

func (c *Connection) writeLoop(heartbeat time.Duration) {
	defer c.Close()
	var beat <-chan time.Time
	if heartbeat > 0 {
		ticker := time.NewTicker(heartbeat)
		defer ticker.Stop()
		beat = ticker.C
	}
	for {
		m := message{websocket.TextMessage, []byte("heartbeat")}
		select {
		case m = <-c.out:
		case <-beat:
		case <-c.closed:
			return
		}
		if c.conn.WriteMessage(m.kind, m.payload) != nil {
			return
		}
	}
}

func main() {
	heartbeat := flag.Duration("heartbeat", 0, "how often the text heartbeat is sent")
	flag.Parse()
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	http.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		c := newConnection(conn, *heartbeat)
		defer c.Close()
		for {
			m, err := c.Read()
			if err != nil || c.Write(m) != nil {
				return
			}
		}
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on ws://%s/ws\n", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}
