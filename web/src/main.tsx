import { render } from "preact";
import { App } from "./App";
import { applyTheme, start } from "./state";
import "./style.css";

applyTheme();
render(<App />, document.getElementById("app")!);
void start();
